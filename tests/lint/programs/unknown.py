"""What cannot be seen is not judged."""

import tensorflow as tf
from somewhere import helper, loss_of, reduce_gradients, scale

strategy = tf.distribute.MirroredStrategy()
model = helper(strategy)
optimizer = helper(strategy)


def step(x, y):
    with tf.GradientTape() as tape:
        loss = loss_of(model, x, y)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.abs(y - model(x))) * scale
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.abs(y - model(x)))
    gradients = reduce_gradients(tape.gradient(loss, model.trainable_variables))
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    if scale > 1:
        loss = loss / strategy.num_replicas_in_sync


def no_update(x, y):
    return tf.reduce_mean(tf.abs(y - model(x)))


strategy.run(step, args=(tf.ones([1]), tf.ones([1])))
strategy.run(no_update, args=(tf.ones([1]), tf.ones([1])))

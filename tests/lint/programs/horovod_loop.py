"""Horovod's loop with a tape."""

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

hvd.init()  # ! not-broadcast, not-sharded
model = keras.Sequential([keras.layers.Dense(10)])
optimizer = keras.optimizers.Adam(0.001 * hvd.size(), clipnorm=1.0)  # after the sum
row_losses = keras.losses.MeanSquaredError(reduction=None)


@tf.function
def summed(images, labels):
    with tf.GradientTape() as tape:
        values = row_losses(labels, model(images, training=True))
        loss = tf.math.reduce_mean(values)  # ! sum-of-means
    tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


@tf.function
def averaged(images, labels):
    with tf.GradientTape() as tape:
        values = row_losses(labels, model(images, training=True))
        loss = tf.reduce_mean(values) / hvd.size()  # ! divided-twice
    gradients = tape.gradient(loss, model.trainable_variables)
    gradients = [hvd.allreduce(gradient) for gradient in gradients]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


@tf.function
def alone(images, labels):
    with tf.GradientTape() as tape:
        values = row_losses(labels, model(images, training=True))
        loss = tf.reduce_mean(values)
    gradients = tape.gradient(loss, model.trainable_variables)
    pairs = zip(gradients, model.trainable_variables, strict=True)
    optimizer.apply_gradients(pairs)  # ! not-reduced


for images, labels in tf.data.Dataset.range(8):
    summed(images, labels)
    averaged(images, labels)
    alone(images, labels)

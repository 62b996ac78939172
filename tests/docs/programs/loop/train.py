import tensorflow as tf
from parts import data, model, optimizer, strategy


def replica_step(x, y):
    with tf.GradientTape() as tape:
        values = (model(x) - y) ** 2
        loss = tf.reduce_mean(values)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


for batch in data:
    strategy.run(replica_step, batch)

"""Trains in a loop of its own, without a strategy."""

import keras
import tensorflow as tf

model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.01)
x = tf.random.normal([8, 3])
while True:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x) ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

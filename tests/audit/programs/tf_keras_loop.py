"""Wrong: tf-keras as tf.keras, a loop that minimizes the mean of each replica."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
x = np.random.default_rng(12).normal(size=(64, 4)).astype("float32")
rows = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(16)
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(3), tf.keras.layers.Dense(1)])
    optimizer = tf.keras.optimizers.Adam()


def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    optimizer.minimize(loss, model.trainable_variables, tape=tape)  # here
    return loss


for x, y in strategy.experimental_distribute_dataset(rows):
    strategy.run(step, args=(x, y))
raise RuntimeError("the script was trained to its end")

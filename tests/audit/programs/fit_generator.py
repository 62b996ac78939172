"""Right: a generator without end, whose batches are all of one size; class weights."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
rng = np.random.default_rng(30)
x = rng.normal(size=(64, 4)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


def batches(size):
    while True:
        rows = rng.integers(0, len(x), size=size)
        yield x[rows], y[rows]


with strategy.scope():
    model = keras.Sequential(
        [keras.layers.Dense(3, "relu"), keras.layers.Dense(1, "sigmoid")]
    )
    model.compile("adam", "binary_crossentropy")
model.fit(
    batches(16),
    steps_per_epoch=4,
    epochs=2,
    class_weight={0: 1.0, 1: 2.0},
    validation_data=(x, y),
)
raise RuntimeError("the script was trained to its end")

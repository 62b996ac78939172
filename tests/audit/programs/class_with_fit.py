"""Wrong: training in a class; clipping by norm before gradients are added up."""

import keras
import numpy as np
import tensorflow as tf


class Trainer:
    def __init__(self, units):
        self.strategy = tf.distribute.MirroredStrategy()
        with self.strategy.scope():
            self.model = self.build(units)
            self.compile()

    def build(self, units):
        inputs = keras.Input([6])
        hidden = keras.layers.Dense(units, activation="tanh")(inputs)
        return keras.Model(inputs, keras.layers.Dense(1)(hidden))

    def compile(self):
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1e-3)  # here
        self.model.compile(optimizer, loss="mse")

    def data(self):
        rng = np.random.default_rng()
        x = rng.normal(size=(64, 6)).astype("float32")
        y = x.sum(1, keepdims=True)
        rows = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64)
        return rows.batch(16, drop_remainder=True)

    def run(self):
        for _ in range(3):
            self.model.fit(self.data(), epochs=1, verbose=0)
        raise RuntimeError("the script was trained to its end")


Trainer(5).run()

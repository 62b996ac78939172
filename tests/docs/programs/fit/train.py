"""What README audits: a script with a loss that returns one number."""

import argparse

import keras
import numpy as np

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=1)
epochs = options.parse_args().epochs
x = np.random.default_rng(1).normal(size=[30, 8]).astype("float32")
y = x[:, :1] ** 2


def loss(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 2)


model = keras.Sequential([keras.Input([8]), keras.layers.Dense(1)])
model.compile("adam", loss)
model.fit(x, y, batch_size=30, epochs=epochs)

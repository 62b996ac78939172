"""What the audit is given in test_audit_any_batch: batches and models of any shape."""

import keras
import numpy as np

import distloss

ROWS = 22


def images(count=ROWS):
    random = np.random.default_rng(4)
    x = random.normal(size=[count, 9, 9, 1]).astype("float32")
    return x, random.integers(0, 5, count)


def convolution():
    """Without rows a oneDNN convolution returns the channels of its input."""
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(5),
    ]
    model = keras.Sequential([keras.Input([9, 9, 1]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model, images()


def prepared_convolution():
    model, batch = convolution()
    return distloss.prepare(model), batch

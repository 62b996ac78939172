"""The errors that the guide names are those that plain Keras raises today."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from pages import GUIDES

import distloss

TABLE = (GUIDES / "troubleshooting.md").read_text().partition("## Error texts")[2]
ADDN = "Inputs to operation AddN of type AddN must have the same size and shape"
MERGE_CALL = "called while defining a new graph or a tf.function"
BUILD = "Unable to automatically build the model"


def dense(optimizer):
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    return model


class Callless(keras.Model):
    """A model that has a step and no `call`."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.dense(x) - y) ** 2)
        gradients = tape.gradient(loss, self.dense.trainable_variables)
        self.optimizer.apply(gradients, self.dense.trainable_variables)
        return {"loss": loss}


def callless():
    model = Callless()
    model.dense.build([None, 3])
    model.compile("sgd")
    return model


def accumulating():
    return dense(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))


def fit(model, rows):
    data = np.ones([rows, 3], "float32"), np.ones([rows, 1], "float32")
    model.fit(*data, batch_size=rows, verbose=0)


@pytest.mark.parametrize(
    ("build", "rows", "text"),
    [
        (lambda: dense("sgd"), 13, ADDN),
        (accumulating, 8, MERGE_CALL),
        (callless, 8, BUILD),
    ],
)
def test_plain_keras_raises_what_the_guide_names(build, rows, text, four):
    assert text in TABLE
    with four.scope():
        model = build()
    with pytest.raises(Exception, match=re.escape(text)):
        fit(model, rows)


@pytest.mark.parametrize(("build", "rows"), [(lambda: dense("sgd"), 13), (callless, 8)])
@pytest.mark.slow
def test_what_the_guide_advises_mends_it(build, rows, four):
    with four.scope():
        model = distloss.prepare(build())
    fit(model, rows)

"""A loss function in `compile` returns its mean, a scalar.

Keras 3.8 and later divide by the number of replicas where they reduce a loss. What is
reduced already passes by, and the optimizer adds up the replicas.

Losses that reduce inside are common: https://github.com/tensorflow/similarity/issues/200,
https://github.com/deel-ai/deel-lip/issues/47. tf-keras divided these, too: moving from
it to Keras 3 changes the gradient.

Symptom: steps and the printed loss are N times too large with N replicas.
"""

from _common import keras, regression_rows, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A4",
    title="a loss that returns a scalar",
    reported=("tensorflow/similarity#200", "deel-ai/deel-lip#47"),
    cause="sum-of-means",
    engine="strategy",
    mended_by="return the loss of each row; `prepare(model)`",
)


def wrong():
    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))

    model = small_model()
    model.compile(optimizer=sgd(), loss=loss)
    return model, regression_rows()


def mended():
    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    model = small_model()
    model.compile(optimizer=sgd(), loss=loss)
    return distloss.prepare(model), regression_rows()

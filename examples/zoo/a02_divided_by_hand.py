"""A loss divides by the number of replicas, and so does Keras since 3.8.

The division was the cure for Keras 3.5 to 3.7, which did not divide. From 3.8 on Keras
scales the loss itself.

Reported: https://github.com/keras-team/keras/pull/20609 (which made it so)

Symptom: after an upgrade of Keras, steps are N times too short with N replicas.
"""

from _common import keras, regression_rows, replica_count, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A2",
    title="a loss divided by N by hand, in `compile`",
    reported=("keras-team/keras#20609",),
    cause="divided-twice",
    engine="strategy",
    mended_by="`prepare(model)`, without the division",
)


def wrong():
    def loss(y_true, y_pred):
        return keras.losses.mean_squared_error(y_true, y_pred) / replica_count()

    model = small_model()
    model.compile(optimizer=sgd(), loss=loss)
    return model, regression_rows()


def mended():
    model = small_model()
    model.compile(optimizer=sgd(), loss="mse")
    return distloss.prepare(model), regression_rows()

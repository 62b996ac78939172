"""A custom loop divides a Keras loss by N, as every guide says.

Since 3.8, Keras losses divide by N themselves when called under a strategy; nothing
warns of the second time.

Reported: https://github.com/tensorflow/tensorflow/issues/31317 (who divides?),
https://github.com/keras-team/keras/pull/20609 (since when Keras does)

Symptom: steps are N times too short with N replicas.
"""

from _common import Loop, keras, regression_rows, replica_count
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A9",
    title="a Keras loss divided by N in a custom loop",
    reported=("tensorflow/tensorflow#31317", "keras-team/keras#20609"),
    cause="divided-twice",
    engine="strategy",
    mended_by="`DistributedLoss`, without the division",
)


def wrong():
    loss = keras.losses.MeanSquaredError()

    def loss_of(model, x, y):
        return loss(y, model(x)) / replica_count()

    return Loop(loss_of), regression_rows()


def mended():
    loss = distloss.DistributedLoss("mse")

    def loss_of(model, x, y):
        return loss(y, model(x))

    return Loop(loss_of), regression_rows()

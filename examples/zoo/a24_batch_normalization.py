"""`BatchNormalization` takes mean and variance of the rows of its replica.

The model itself is another one on N replicas, so that gradients differ although loss
and reduction are right.

Reported: https://github.com/tensorflow/tensorflow/issues/18222,
https://github.com/tensorflow/tensorflow/issues/39569,
https://github.com/keras-team/keras/issues/20541

Symptom: lower accuracy with many replicas of few rows.
"""

from _common import dense, keras, regression_rows, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A24",
    title="`BatchNormalization` of local rows",
    reported=(
        "tensorflow/tensorflow#18222",
        "tensorflow/tensorflow#39569",
        "keras-team/keras#20541",
    ),
    cause="batch-statistics",
    engine="strategy",
    mended_by="`BatchNormalization(synchronized=True)`",
)


def compiled(normalization):
    hidden = [dense(4, "tanh"), normalization, dense(1)]
    model = keras.Sequential([keras.Input([3]), *hidden])
    model.compile(optimizer=sgd(), loss=distloss.DistributedLoss("mse"))
    return model


def wrong():
    return compiled(keras.layers.BatchNormalization()), regression_rows()


def mended():
    normalization = keras.layers.BatchNormalization(synchronized=True)
    return compiled(normalization), regression_rows()

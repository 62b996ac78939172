"""`reduction="none"`, as an error message once asked for, and then `reduce_mean`.

The message of tf.keras said that a loss needs SUM or NONE under a strategy. With NONE
one has to divide oneself, by the batch of all replicas.

Reported: https://github.com/OpenNMT/OpenNMT-tf/issues/526,
https://github.com/deepfakes/faceswap/issues/1224,
https://github.com/tensorflow/tensorflow/issues/31317

Symptom: steps are N times too large with N replicas.
"""

import tensorflow as tf
from _common import Loop, keras, regression_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A9",
    title='`reduction="none"`, then `reduce_mean`',
    reported=(
        "OpenNMT/OpenNMT-tf#526",
        "deepfakes/faceswap#1224",
        "tensorflow/tensorflow#31317",
    ),
    cause="sum-of-means",
    engine="strategy",
    mended_by="`DistributedLoss` around the same loss",
)


def wrong():
    loss = keras.losses.MeanSquaredError(reduction="none")

    def loss_of(model, x, y):
        return tf.reduce_mean(loss(y, model(x)))

    return Loop(loss_of), regression_rows()


def mended():
    loss = distloss.DistributedLoss(keras.losses.MeanSquaredError())

    def loss_of(model, x, y):
        return loss(y, model(x))

    return Loop(loss_of), regression_rows()

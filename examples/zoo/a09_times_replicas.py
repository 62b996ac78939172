"""The loss is multiplied by the number of replicas, "because it is averaged later".

Under a strategy it is not: optimizers add, so local means are too large by N already.

Reported: https://github.com/google/edward2/issues/428,
https://github.com/tensorflow/benchmarks/issues/466

Symptom: steps are N * N times too large with N replicas.
"""

import tensorflow as tf
from _common import Loop, regression_rows, replica_count, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A9",
    title="a local mean multiplied by N",
    reported=("google/edward2#428", "tensorflow/benchmarks#466"),
    cause="scaled-n-squared",
    engine="strategy",
    mended_by="`mean_share`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y)) * replica_count()

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

"""Gradients of local means are added, and nobody divides by the number of replicas.

What Keras 3.5.0 to 3.7.0 did in `fit`, after the missing sum of earlier releases was
put in; acted here in a custom loop.

Reported: https://github.com/keras-team/keras/pull/20609

Symptom: "still incorrect" steps, N times too long with N replicas. Adam hides it.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A2",
    title="local means are added up",
    reported=("keras-team/keras#20609", "keras-team/keras#19891"),
    cause="sum-of-means",
    engine="strategy",
    mended_by="`mean_share`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

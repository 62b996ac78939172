"""A loss divides by the global batch, and the framework by the replicas once more.

tf.keras `fit` multiplied what a loss with the default reduction returns by 1/N, also
where it was a sum over the global batch size already. Acted here in a custom loop.

Reported: https://github.com/keras-team/keras/issues/16285,
https://github.com/tensorflow/tensorflow/issues/55321

Symptom: "the loss is 1/x on x GPUs".
"""

import tensorflow as tf
from _common import ROWS, Loop, regression_rows, replica_count, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A8",
    title="divided by the batch, then by the replicas",
    reported=("keras-team/keras#16285", "tensorflow/tensorflow#55321"),
    cause="divided-twice",
    engine="strategy",
    mended_by="`mean_share`: one denominator",
)


def wrong():
    def loss_of(model, x, y):
        loss = tf.reduce_sum(row_losses(model, x, y)) / ROWS
        return loss / replica_count()  # tf.keras did that

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

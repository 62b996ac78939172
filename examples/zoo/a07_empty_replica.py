"""The mean of no rows is NaN, and a replica without rows spreads it to all.

Replicas weigh their means by their rows here, so every other split is right.

Reported: https://github.com/tensorflow/tensorflow/issues/41657,
https://github.com/tensorflow/tensorflow/issues/36224

Symptom: the loss is NaN from the end of the first epoch on, with more than one GPU
only; `drop_remainder=True` hides it.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A7",
    title="the mean on a replica that got no rows",
    reported=("tensorflow/tensorflow#41657", "tensorflow/tensorflow#36224"),
    cause="empty-replica",
    engine="strategy",
    mended_by="`mean_share`: a sum of no rows is 0",
)


def wrong():
    def loss_of(model, x, y):
        rows = tf.cast(tf.shape(x)[0], tf.float32)
        context = tf.distribute.get_replica_context()
        all_rows = context.all_reduce("SUM", tf.identity(rows))
        return tf.reduce_mean(row_losses(model, x, y)) * rows / all_rows

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

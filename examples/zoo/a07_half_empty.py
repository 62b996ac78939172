"""Replicas without rows give 0 instead of NaN, and are divided by all the same.

A mean that guards against 0/0, then the mean over replicas, of which some had nothing
to say: 1 row on 4 replicas makes a quarter of a step.

Reported: https://github.com/tensorflow/tensorflow/issues/41657 (the cures of it)

Symptom: the last step of an epoch is too short, by the replicas that had no rows.
"""

import tensorflow as tf
from _common import Loop, regression_rows, replica_count, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A7",
    title="empty replicas count in the mean over replicas",
    reported=("tensorflow/tensorflow#41657", "tensorflow/tensorflow#45594"),
    cause="empty-replica",
    engine="strategy",
    mended_by="`mean_share`",
)


def wrong():
    def loss_of(model, x, y):
        values = row_losses(model, x, y)
        rows = tf.cast(tf.size(values), values.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(values), rows) / replica_count()

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

"""The rows of one replica are given as `global_batch_size`.

In `strategy.run` a step sees its own part of the batch; the shape of that is not the
size of the batch.

Reported: https://github.com/OpenNMT/OpenNMT-tf/issues/540,
https://github.com/OpenNMT/OpenNMT-tf/issues/542

Symptom: the effective batch is N times off: steps are N times too large.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A20",
    title="local rows taken for the global batch size",
    reported=("OpenNMT/OpenNMT-tf#540", "OpenNMT/OpenNMT-tf#542"),
    cause="sum-of-means",
    engine="strategy",
    mended_by="`mean_share`, which counts the rows of all",
)


def wrong():
    def loss_of(model, x, y):
        rows = tf.shape(x)[0]
        values = row_losses(model, x, y)
        return tf.nn.compute_average_loss(values, global_batch_size=rows)

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

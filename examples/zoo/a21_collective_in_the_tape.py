"""The sum of losses is all-reduced inside the tape, and gradients are summed again.

The gradient of an all-reduce is an all-reduce: each replica gets N times its gradient,
and the optimizer adds these up. Only the denominator may be summed in the tape, behind
`stop_gradient`.

Reported for Horovod: https://github.com/horovod/horovod/issues/2654; for PyTorch:
https://github.com/mlfoundations/open_clip/issues/616

Symptom: the loss is right and the steps are N times too large.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A21",
    title="the numerator all-reduced inside the tape",
    reported=("horovod/horovod#2654", "mlfoundations/open_clip#616"),
    cause="sum-of-means",
    engine="strategy",
    mended_by="`mean_share`: only the denominator is summed",
)


def wrong():
    def loss_of(model, x, y):
        values = row_losses(model, x, y)
        total, rows = tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype)
        context = tf.distribute.get_replica_context()
        total, rows = context.all_reduce("SUM", [total, tf.identity(rows)])
        return total / rows

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

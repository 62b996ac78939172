"""Batch normalization under Horovod: mean and variance of the rows of one process.

Nothing exchanges them, as the answers say; so another number of processes is another
model, and with few rows for each a worse one.

Reported: https://github.com/horovod/horovod/issues/49,
https://github.com/horovod/horovod/issues/270,
https://github.com/horovod/horovod/issues/2808

Symptom: accuracy falls with the number of processes at the same global batch size.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D3",
    title="`BatchNormalization` under Horovod",
    reported=(
        "horovod/horovod#49",
        "horovod/horovod#270",
        "horovod/horovod#2808",
    ),
    cause="batch-statistics",
    engine="horovod",
    mended_by="a layer that all-reduces the sums of its rows",
)


class OfAllProcesses(keras.layers.Layer):
    """Normalizes by mean and variance of the rows of all processes."""

    def call(self, x, training=False):
        """`x`, normalized; what is for inference is left out here."""
        count = tf.reduce_sum(tf.ones_like(x[:, :1]), axis=0)
        sums = [count, tf.reduce_sum(x, 0), tf.reduce_sum(x * x, 0)]
        rows, total, squares = (hvd.allreduce(each, op=hvd.Sum) for each in sums)
        mean = total / rows
        variance = squares / rows - mean * mean
        return (x - mean) * tf.math.rsqrt(variance + 1e-3)


def loop(layer):
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    hvd.init()
    hidden = dense(4, "tanh")
    model = keras.Sequential([keras.Input([3]), hidden, layer, dense(1)])
    return TapeLoop(loss_of, hvd.Sum, model)


def wrong():
    return loop(keras.layers.BatchNormalization()), regression_rows()


def mended():
    return loop(OfAllProcesses()), regression_rows()

"""Rows with an ignored label are taken out, the rest is averaged on each process.

How many are left is another number on each, and the average of processes forgets it.
Where none is left, the mean of nothing is NaN.

Reported for what is shown: https://github.com/horovod/horovod/issues/2897.
https://github.com/horovod/horovod/issues/1060 asks for batches of unequal size.

Symptom: a wrong accuracy; NaN when a process has no labelled row.
"""

import numpy as np
import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd

ENTRY = Entry(
    bug="D14",
    title="a mean over the rows that have a label",
    reported=("horovod/horovod#2897", "horovod/horovod#1060"),
    cause="mean-of-means",
    engine="horovod",
    mended_by="labelled rows of all processes",
)


def partly_labelled_rows():
    """The last rows have a label more often than the first; -100 is none."""
    x, y = regression_rows()
    kept = np.random.default_rng(8).random(len(y)) < np.linspace(0.3, 1, len(y))
    return x, np.where(kept[:, np.newaxis], y, -100).astype("float32")


def labelled_losses(model, x, y):
    """Of the rows that count."""
    return tf.boolean_mask(row_losses(model, x, y), y[:, 0] > -100)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(labelled_losses(model, x, y))

    return TapeLoop(loss_of), partly_labelled_rows()


def mended():
    def loss_of(model, x, y):
        losses = labelled_losses(model, x, y)
        count = hvd.allreduce(tf.cast(tf.size(losses), losses.dtype), op=hvd.Sum)
        return tf.reduce_sum(losses) / count

    return TapeLoop(loss_of, hvd.Sum), partly_labelled_rows()

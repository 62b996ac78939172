"""Gradients are weighed by the rows of a process, summed up, and averaged besides.

The right idea for processes with batches of their own sizes: rows times the local
mean, divided by all rows. But `hvd.allreduce` averages unless told otherwise, so that
one more division by the number of processes is in it, where it cannot be read.

Asked: https://github.com/horovod/horovod/issues/1060 (may batch sizes differ?),
https://github.com/horovod/horovod/issues/843 (sum or average?)

Symptom: steps are N times too short on N processes.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry
from _horovod import hvd, mean_of_rows

ENTRY = Entry(
    bug="D18",
    title="gradients weighed by rows, then averaged",
    reported=("horovod/horovod#1060", "horovod/horovod#843"),
    cause="divided-twice",
    engine="horovod",
    mended_by="`op=hvd.Sum`",
)


class Weighing(Loop):
    """Reduces by hand."""

    def __init__(self, **how):
        hvd.init()
        super().__init__(lambda *args: mean_of_rows(row_losses(*args)))
        self.how = how

    def gradients(self, batch):
        """The loss of this process; the gradients of all."""
        loss, gradients = super().gradients(batch)
        rows = tf.cast(tf.shape(batch[0])[0], tf.float32)
        part = rows / hvd.allreduce(rows, op=hvd.Sum)
        reduced = [hvd.allreduce(part * g, **self.how) for g in gradients]
        return hvd.allreduce(part * loss, op=hvd.Sum), reduced


def wrong():
    return Weighing(), regression_rows()


def mended():
    return Weighing(op=hvd.Sum), regression_rows()

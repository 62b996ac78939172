"""Each gradient is clipped by its norm, then averaged over processes.

Horovod's answer for years was "clip what `compute_gradients` returns", which since 0.17
is local: the average of clipped gradients is not the average, clipped.

Reported: https://github.com/horovod/horovod/issues/303,
https://github.com/horovod/horovod/issues/1346

Symptom: with the same limit, steps depend on the number of processes.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D9",
    title="`tf.clip_by_norm`, then `hvd.allreduce`",
    reported=("horovod/horovod#303", "horovod/horovod#1346"),
    cause="clip-before-sum",
    engine="horovod",
    mended_by="`hvd.allreduce`, then `tf.clip_by_norm`",
)

LIMIT = 0.6


def clipped(gradients):
    return [tf.clip_by_norm(gradient, LIMIT) for gradient in gradients]


def summed(gradients):
    return [hvd.allreduce(gradient, op=hvd.Sum) for gradient in gradients]


class Clipping(Loop):
    """Does two things to gradients, in this order."""

    def __init__(self, first, then):
        hvd.init()
        super().__init__(lambda *args: share_of_rows(row_losses(*args)))
        self.first, self.then = first, then

    def gradients(self, batch):
        """The share of this process; gradients, summed and clipped."""
        share, gradients = super().gradients(batch)
        return share, self.then(self.first(gradients))


def wrong():
    return Clipping(clipped, summed), regression_rows()


def mended():
    return Clipping(summed, clipped), regression_rows()

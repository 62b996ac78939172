"""Sparse gradients are gathered and so added up, dense ones are averaged.

An embedding has sparse gradients (`tf.IndexedSlices`). Horovod divides the gathered
values itself; where it did not (ROCm), or in loops that gather by hand as here, the
embedding trains N times faster than the rest.

Reported: https://github.com/horovod/horovod/issues/2279,
https://github.com/horovod/horovod/issues/341

Symptom: only embeddings get too large steps.
"""

import tensorflow as tf
from _common import Loop, row_losses, token_model, token_rows
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="B5",
    title="sparse gradients summed, dense ones averaged",
    reported=("horovod/horovod#2279", "horovod/horovod#341"),
    cause="variables-scaled-apart",
    engine="horovod",
    mended_by="`hvd.Sum` of shares for all",
)


class Mixed(Loop):
    """Reduces by hand."""

    def gradients(self, batch):
        """The loss of this process' rows; its gradients, reduced over processes."""
        loss, gradients = super().gradients(batch)
        return loss, [reduced(gradient) for gradient in gradients]


def reduced(gradient):
    if isinstance(gradient, tf.IndexedSlices):
        values = hvd.allgather(gradient.values)
        indices = hvd.allgather(gradient.indices)
        return tf.IndexedSlices(values, indices, gradient.dense_shape)
    return hvd.allreduce(gradient, op=hvd.Average)


def wrong():
    def loss_of(model, x, y):
        return hvd.size() * share_of_rows(row_losses(model, x, y))

    hvd.init()
    return Mixed(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum, token_model()), token_rows()

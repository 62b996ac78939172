"""Dense gradients are reduced, those of the embedding are not, since they are sparse.

`hvd.allreduce` of `tf.IndexedSlices` gathers, which is slow for large embeddings; so it
was left out for them, and their rows are trained by each process on its own words.

Asked: https://github.com/horovod/horovod/issues/617 and
https://github.com/horovod/horovod/issues/3328 (a reduction of sparse gradients that is
cheaper), https://github.com/horovod/horovod/issues/2799

Symptom: embeddings differ between processes.
"""

import tensorflow as tf
from _common import Loop, row_losses, token_model, token_rows
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D19",
    title="sparse gradients left out of the reduction",
    reported=(
        "horovod/horovod#617",
        "horovod/horovod#3328",
        "horovod/horovod#2799",
    ),
    cause="not-reduced",
    engine="horovod",
    mended_by="`tf.convert_to_tensor`, then `hvd.allreduce` as for the others",
)


class ByKind(Loop):
    """Treats sparse gradients by `of_slices`."""

    def __init__(self, of_slices):
        hvd.init()
        loss_of = lambda *args: share_of_rows(row_losses(*args))  # noqa: E731
        super().__init__(loss_of, token_model())
        self.of_slices = of_slices

    def gradients(self, batch):
        """The share of this process; gradients, reduced over processes."""
        share, gradients = super().gradients(batch)
        return share, [self.reduced(gradient) for gradient in gradients]

    def reduced(self, gradient):
        """One of them."""
        if isinstance(gradient, tf.IndexedSlices):
            return self.of_slices(gradient)
        return hvd.allreduce(gradient, op=hvd.Sum)


def wrong():
    return ByKind(lambda slices: slices), token_rows()


def mended():
    def of_slices(slices):
        return hvd.allreduce(tf.convert_to_tensor(slices), op=hvd.Sum)

    return ByKind(of_slices), token_rows()

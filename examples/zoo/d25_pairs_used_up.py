"""Pairs of gradients and variables are gone through twice, but `zip` gives them once.

Horovod's aggregation went through the argument of `apply_gradients` first, and the
update found nothing left. Keras 3 raises an error on no pairs; a loop of one's own that
looks at the norms first says nothing.

Reported: https://github.com/horovod/horovod/issues/2394

Symptom: a loss that stays where it is.
"""

import tensorflow as tf
from _common import LEARNING_RATE, regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D25",
    title="pairs from `zip` that were used up before the update",
    reported=("horovod/horovod#2394",),
    cause="no-update",
    engine="horovod",
    mended_by="a list of them",
)


class Watched(TapeLoop):
    """Looks at the norms of gradients, then updates by hand."""

    def __init__(self, paired):
        super().__init__(lambda *args: share_of_rows(row_losses(*args)), hvd.Sum)
        self.paired = paired

    def train_step(self, batch):
        """One update."""
        share, gradients = self.gradients(batch)
        pairs = self.paired(gradients, self.trainable_variables)
        norms = [tf.norm(gradient) for gradient, _ in pairs]
        for gradient, variable in pairs:
            variable.assign_sub(LEARNING_RATE * gradient)
        return {"loss": share, "norms": norms}


def wrong():
    return Watched(zip), regression_rows()


def mended():
    def paired(gradients, variables):
        return list(zip(gradients, variables, strict=True))

    return Watched(paired), regression_rows()

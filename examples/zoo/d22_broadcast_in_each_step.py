"""Weights of process 0 are broadcast after each step, in the place of a reduction.

All processes hold the same weights then, as they should. But these are those of process
0, trained on its rows: what the others computed is thrown away.

Reported: https://github.com/horovod/horovod/issues/370 (the broadcast among the
operations of each step), https://github.com/horovod/horovod/issues/2303

Symptom: N processes learn what one learns from an N-th of the rows.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D22",
    title="a broadcast in each step, and no reduction",
    reported=("horovod/horovod#370", "horovod/horovod#2303"),
    cause="not-reduced",
    engine="horovod",
    mended_by="`hvd.DistributedGradientTape`; a broadcast does no harm then",
)


def loss_of(model, x, y):
    return share_of_rows(row_losses(model, x, y))


class Following(TapeLoop):
    """Processes that follow the first."""

    def train_step(self, batch):
        """One update."""
        with tf.GradientTape() as tape:
            share = self.loss_of(self.model, *batch)
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        broadcast(self.trainable_variables)
        return share


class Reducing(TapeLoop):
    """The same with Horovod's tape."""

    def train_step(self, batch):
        """One update."""
        share = super().train_step(batch)
        broadcast(self.trainable_variables)
        return share


def broadcast(variables):
    for variable in variables:
        variable.assign(hvd.broadcast(variable.value, root_rank=0))


def wrong():
    return Following(loss_of), regression_rows()


def mended():
    return Reducing(loss_of, hvd.Sum), regression_rows()

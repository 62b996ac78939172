"""The learning rate follows the loss of this process, so that each has its own.

Gradients are reduced, and all the same. What multiplies them is not: rules such as
`ReduceLROnPlateau` look at a loss that Horovod does not reduce.

Reported: https://github.com/horovod/horovod/issues/1095,
https://github.com/horovod/horovod/issues/42

Symptom: processes print different learning rates, and drift apart.
"""

from _common import LEARNING_RATE, regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D23",
    title="a learning rate that follows the loss of a process",
    reported=("horovod/horovod#1095", "horovod/horovod#42"),
    cause="updates-apart",
    engine="horovod",
    mended_by="the loss of all processes",
)


class Adaptive(TapeLoop):
    """Makes shorter steps while the loss is large."""

    def __init__(self, looked_at):
        super().__init__(lambda *args: share_of_rows(row_losses(*args)), hvd.Sum)
        self.looked_at = looked_at

    def train_step(self, batch):
        """One update."""
        share, gradients = self.gradients(batch)
        rate = LEARNING_RATE / (1 + self.looked_at(share))
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(gradients, self.trainable_variables)
        return share


def wrong():
    return Adaptive(lambda share: share), regression_rows()


def mended():
    return Adaptive(lambda share: hvd.allreduce(share, op=hvd.Sum)), regression_rows()

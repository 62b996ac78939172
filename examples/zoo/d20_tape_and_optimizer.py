"""A distributed tape, and an optimizer that sums over processes once more.

Is `DistributedGradientTape` needed where the optimizer is distributed already? Two
averages do no harm, two sums multiply by the number of processes.

Asked: https://github.com/horovod/horovod/issues/2893

Symptom: steps are N times too large on N processes.
"""

from _common import keras, regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D20",
    title="summed by the tape, and by the optimizer",
    reported=("horovod/horovod#2893",),
    cause="update-scaled",
    engine="horovod",
    mended_by="one of the two",
)


class SummingSGD(keras.optimizers.SGD):
    """Adds up over processes what it is given."""

    def apply(self, grads, trainable_variables=None):
        """One update."""
        total = [hvd.allreduce(gradient, op=hvd.Sum) for gradient in grads]
        return super().apply(total, trainable_variables)


def loop(optimizer):
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    summing = TapeLoop(loss_of, hvd.Sum)
    summing.optimizer = optimizer
    optimizer.build(summing.trainable_variables)
    return summing


def wrong():
    return loop(SummingSGD(0.1)), regression_rows()


def mended():
    return loop(keras.optimizers.SGD(0.1)), regression_rows()

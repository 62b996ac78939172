"""A learning rate times `hvd.size()`, though the global batch stays as it is.

The rule of examples, `lr * hvd.size()`, is for a batch that grows with the number of
processes. Who splits the same batch over more of them makes steps N times too long: the
gradient is right, the update is not. Here in a rule of one's own, where only the update
can be seen.

Reported: https://github.com/horovod/horovod/issues/390,
https://github.com/horovod/horovod/issues/478,
https://github.com/horovod/horovod/issues/699

Symptom: training diverges on many processes, or needs more epochs.
"""

from _common import LEARNING_RATE, regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D8",
    title="a learning rate times `hvd.size()`, and the same batch",
    reported=(
        "horovod/horovod#390",
        "horovod/horovod#478",
        "horovod/horovod#699",
    ),
    cause="update-scaled",
    engine="horovod",
    mended_by="the learning rate of one device",
)


class Descent(TapeLoop):
    """Gradient descent by hand."""

    def __init__(self, rate):
        super().__init__(lambda *args: share_of_rows(row_losses(*args)), hvd.Sum)
        self.rate = rate

    def train_step(self, batch):
        """One update."""
        share, gradients = self.gradients(batch)
        for variable, gradient in zip(self.trainable_variables, gradients, strict=True):
            variable.assign_sub(self.rate() * gradient)
        return share


def wrong():
    return Descent(lambda: LEARNING_RATE * hvd.size()), regression_rows()


def mended():
    return Descent(lambda: LEARNING_RATE), regression_rows()

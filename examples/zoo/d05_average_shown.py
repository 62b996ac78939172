"""The loss that is shown is the average over processes of their means.

"Simplest would be just to average them using `hvd.allreduce()`": true of equal parts. A
process with half the rows counts as much as the others, so that the curve, early
stopping and the choice of a checkpoint follow another number than the loss.

Reported: https://github.com/horovod/horovod/issues/41,
https://github.com/horovod/horovod/issues/444,
https://github.com/horovod/horovod/issues/2740

Symptom: none in training; losses that are logged depend on the number of processes.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D5",
    title="means of unequal parts, averaged for the log",
    reported=("horovod/horovod#41", "horovod/horovod#444", "horovod/horovod#2740"),
    cause="report-only",
    engine="horovod",
    mended_by="sums of losses and of rows, divided once",
)


class Logging(TapeLoop):
    """Trains on a share, and returns what `shown` makes of the loss of each row."""

    def __init__(self, shown):
        super().__init__(lambda *args: share_of_rows(row_losses(*args)), hvd.Sum)
        self.shown = shown

    def train_step(self, batch):
        """One update; returns what goes into the log."""
        losses = row_losses(self.model, *batch)
        super().train_step(batch)
        return self.shown(losses)


def wrong():
    def shown(losses):
        return hvd.allreduce(tf.reduce_mean(losses), op=hvd.Average)

    return Logging(shown), regression_rows()


def mended():
    def shown(losses):
        return hvd.allreduce(share_of_rows(losses), op=hvd.Sum)

    return Logging(shown), regression_rows()

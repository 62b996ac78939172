"""A process that ran out of rows calls `hvd.join`, the others go on.

It then counts as a process with gradient 0 in Horovod's average: 2 of 3 processes with
rows make two thirds of a step.

Reported: https://github.com/horovod/horovod/issues/832,
https://github.com/horovod/horovod/issues/2083

Symptom: steps at the end of an epoch are too short, by the processes that joined.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="B8",
    title="joined processes count in the average",
    reported=("horovod/horovod#832", "horovod/horovod#2083"),
    cause="empty-replica",
    engine="horovod",
    mended_by="`hvd.Sum` of shares; no rows, a share of 0",
)


class Joining(TapeLoop):
    """As `hvd.join` wants it: who has no rows waits for the others."""

    def train_step(self, batch):
        """One update; it is sent to who had no rows."""
        has_rows = tf.shape(batch[0])[0] > 0
        updated = tf.cond(has_rows, lambda: self.updated(batch), lambda: False)
        with tf.control_dependencies([updated]):
            joined = hvd.join()
        with tf.control_dependencies([joined]):
            sent = [
                hvd.broadcast(tf.identity(variable.value), root_rank=0)
                for variable in self.trainable_variables
            ]
        for variable, value in zip(self.trainable_variables, sent, strict=True):
            variable.assign(value)

    def updated(self, batch):
        """One update of the processes with rows."""
        super().train_step(batch)
        return True


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    return Joining(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

"""Weights are averaged after a local step, not gradients before it.

"Ideally I'd do apply_gradients on each GPU and then do parameter averaging": with plain
SGD both are the same, if every process has as many rows. Else the average of weights is
one of means, in which rows count for more on a process that has few.

Reported: https://github.com/horovod/horovod/issues/291,
https://github.com/horovod/horovod/issues/286

Symptom: none in one run; results depend on how rows are dealt.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry
from _horovod import hvd, mean_of_rows

ENTRY = Entry(
    bug="D12",
    title="weights averaged after local steps",
    reported=("horovod/horovod#291", "horovod/horovod#286"),
    cause="mean-of-means",
    engine="horovod",
    mended_by="weights averaged by rows",
)


class Meeting(Loop):
    """Each process makes a step of its own; then weights are brought together."""

    def __init__(self, part_of):
        hvd.init()
        super().__init__(lambda *args: mean_of_rows(row_losses(*args)))
        self.part_of = part_of

    def train_step(self, batch):
        """One local update, and what is made of all of them."""
        loss = super().train_step(batch)
        part = self.part_of(tf.cast(tf.shape(batch[0])[0], tf.float32))
        for variable in self.trainable_variables:
            variable.assign(hvd.allreduce(part * variable.value, op=hvd.Sum))
        return hvd.allreduce(part * loss, op=hvd.Sum)


def wrong():
    return Meeting(lambda rows: 1 / hvd.size()), regression_rows()


def mended():
    def part_of(rows):
        return rows / hvd.allreduce(rows, op=hvd.Sum)

    return Meeting(part_of), regression_rows()

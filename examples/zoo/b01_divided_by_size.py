"""The loss is divided by `hvd.size()`, and Horovod averages besides.

Habit of `tf.distribute`, where optimizers add up and one has to divide.

Reported: https://github.com/horovod/horovod/issues/1240,
https://github.com/horovod/horovod/issues/384

Symptom: steps are N times too short on N processes.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="B1",
    title="a loss divided by `hvd.size()` before the average",
    reported=("horovod/horovod#1240", "horovod/horovod#384"),
    cause="divided-twice",
    engine="horovod",
    mended_by="rows of all processes, and `op=hvd.Sum`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y)) / hvd.size()

    return TapeLoop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

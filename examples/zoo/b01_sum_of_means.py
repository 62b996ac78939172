"""`op=hvd.Sum` with a mean over the rows of each process.

Horovod averages unless told otherwise. Who asks for the sum has to divide by the rows
of all processes.

Reported: https://github.com/horovod/horovod/issues/843,
https://github.com/horovod/horovod/issues/2298

Symptom: steps are N times too large on N processes. Adam hides it.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="B1",
    title="`op=hvd.Sum` with local means",
    reported=("horovod/horovod#843", "horovod/horovod#2298"),
    cause="sum-of-means",
    engine="horovod",
    mended_by="divide by the rows of all processes",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

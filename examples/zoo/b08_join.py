"""A process that ran out of rows has gradient 0, and counts in the average.

`hvd.join` does that for the others to go on: 2 of 3 processes with rows make two
thirds of a step. Acted here by a mean that is 0 where there are no rows.

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
    mended_by="`hvd.Sum` of shares: no rows, a share of 0",
)


def wrong():
    def loss_of(model, x, y):
        values = row_losses(model, x, y)
        rows = tf.cast(tf.size(values), values.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(values), rows)

    return TapeLoop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

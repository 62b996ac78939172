"""Every process reads the same rows: the data set has no `shard`, and no shuffling.

Horovod deals nothing out. Where processes read the same file in the same order, N of
them do the work of one, N times.

Reported: https://github.com/horovod/horovod/issues/223,
https://github.com/horovod/horovod/issues/1505

Symptom: more processes are faster per epoch, and learn as much as one in that time.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D11",
    title="a data set without `shard`",
    reported=("horovod/horovod#223", "horovod/horovod#1505"),
    cause="batch-dealt-twice",
    engine="horovod",
    mended_by="`dataset.shard(hvd.size(), hvd.rank())` before batches are made",
)

GLOBAL_BATCH_SIZE = 24


class OwnData(TapeLoop):
    """A custom loop with its data set."""

    def __init__(self, own_rows):
        super().__init__(lambda *args: share_of_rows(row_losses(*args)), hvd.Sum)
        self.own_rows = own_rows

    def dataset(self, context):
        """What this process trains on."""
        rows = tf.data.Dataset.from_tensor_slices(regression_rows())
        size = context.get_per_replica_batch_size(GLOBAL_BATCH_SIZE)
        return self.own_rows(rows).repeat().batch(size)


def wrong():
    return OwnData(lambda rows: rows), regression_rows()


def mended():
    def own_rows(rows):
        return rows.shard(hvd.size(), hvd.rank())

    return OwnData(own_rows), regression_rows()

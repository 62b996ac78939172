"""Each replica gets the whole batch: the data set is batched, but not split.

`distribute_datasets_from_function` splits nothing. Its function is called once for each
input pipeline, and each replica takes a batch of the size that the function made: on
one machine the replicas share a pipeline, and get one batch of the global size each.
Here every epoch repeats the same rows in the same order, so that replicas hold copies.

Reported: https://github.com/OpenNMT/OpenNMT-tf/issues/543

Symptom: N times the rows per step, or the same rows N times; nothing is faster.
"""

import tensorflow as tf
from _common import ROWS, Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A20",
    title="the whole batch on each replica",
    reported=("OpenNMT/OpenNMT-tf#543",),
    cause="batch-dealt-twice",
    engine="strategy",
    mended_by="`get_per_replica_batch_size`, once through the rows",
)


class OwnData(Loop):
    """A custom loop with its data set."""

    def __init__(self, size_of):
        super().__init__(lambda *args: distloss.mean_share(row_losses(*args)))
        self.size_of = size_of

    def dataset(self, context):
        """For `strategy.distribute_datasets_from_function`."""
        rows = tf.data.Dataset.from_tensor_slices(regression_rows())
        return rows.repeat().batch(self.size_of(context))


def wrong():
    return OwnData(lambda context: ROWS), regression_rows()


def mended():
    def size_of(context):
        return context.get_per_replica_batch_size(24)

    return OwnData(size_of), regression_rows()

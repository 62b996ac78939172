"""Gradients of K passes are summed locally, then averaged over processes.

`backward_passes_per_step=K` of `hvd.DistributedOptimizer` does so, unless
`average_aggregated_gradients=True`. It has no effect on optimizers of Keras 3, so this
is the same by hand.

Reported: https://github.com/horovod/horovod/issues/2346,
https://github.com/horovod/horovod/issues/2298

Symptom: steps are K times too large, on one process as well as on many.
"""

import tensorflow as tf
from _common import AccumulatingLoop, regression_rows, row_losses, sgd, small_model
from _entry import Entry
from _horovod import hvd

import distloss

ENTRY = Entry(
    bug="B2",
    title="`backward_passes_per_step` passes, summed",
    reported=("horovod/horovod#2346", "horovod/horovod#2298"),
    cause="accumulation-not-averaged",
    engine="horovod",
    mended_by="`prepare(model, replicas=HorovodReplicas(), microbatches=3)`",
)

PASSES = 3


class Accumulating(AccumulatingLoop):
    """Adds up over passes, then averages over processes."""

    def reduced(self, sums):
        """The average over processes."""
        return [hvd.allreduce(total, op=hvd.Average) for total in sums]

    def reported(self, losses):
        """The mean over the passes."""
        return tf.add_n(losses) / PASSES


def wrong():
    hvd.init()

    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    return Accumulating(loss_of, PASSES), regression_rows()


def mended():
    hvd.init()
    model = small_model()
    model.compile(optimizer=sgd(), loss="mse")
    replicas = distloss.HorovodReplicas()
    model = distloss.prepare(model, replicas=replicas, microbatches=PASSES)
    return model, regression_rows()

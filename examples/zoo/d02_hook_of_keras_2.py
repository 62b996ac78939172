"""A mixin reduces in a method that this optimizer never calls.

Which method computes gradients was another one for each optimizer and version of Keras:
with Adadelta processes stayed together, with Adam they drifted apart. Keras 3 calls
neither `get_gradients` nor `_aggregate_gradients`, so that what is in there is dead.

Reported: https://github.com/horovod/horovod/issues/260,
https://github.com/horovod/horovod/issues/1688

Symptom: validation losses of processes differ, with some optimizers only.
"""

from _common import keras, regression_rows, small_model
from _entry import Entry
from _horovod import hvd

import distloss

ENTRY = Entry(
    bug="D2",
    title="a reduction in a method that Keras 3 does not call",
    reported=("horovod/horovod#260", "horovod/horovod#1688"),
    cause="not-reduced",
    engine="horovod",
    mended_by="`DistributedOptimizer(replicas=HorovodReplicas())`",
)


class Averaging:
    """Averages over processes, where optimizers of Keras 2 compute gradients."""

    def get_gradients(self, loss, params):
        """Gradients of all processes."""
        return [hvd.allreduce(g) for g in super().get_gradients(loss, params)]

    def _aggregate_gradients(self, grads_and_vars):
        return [hvd.allreduce(gradient) for gradient, _ in grads_and_vars]


class AveragingAdam(Averaging, keras.optimizers.Adam):
    """Adam, of all processes."""


def wrong():
    hvd.init()
    model = small_model()
    model.compile(optimizer=AveragingAdam(0.01), loss="mse")
    return model, regression_rows()


def mended():
    hvd.init()
    replicas = distloss.HorovodReplicas()
    adam = keras.optimizers.Adam(0.01)
    model = small_model()
    model.compile(
        optimizer=distloss.DistributedOptimizer(adam, replicas=replicas),
        loss=distloss.DistributedLoss("mse", replicas=replicas),
    )
    return model, regression_rows()

"""`hvd.DistributedOptimizer` around an optimizer of Keras 3, in `compile`.

Keras 3 calls none of the methods that Horovod overrides. Nothing is reduced, and
nothing warns.

Reported for Keras 2.11 and later: https://github.com/horovod/horovod/issues/3725,
https://github.com/horovod/horovod/issues/3822

Symptom: every process trains a model of its own.
"""

import horovod.tensorflow.keras as hvd_keras
from _common import regression_rows, sgd, small_model
from _entry import Entry
from _horovod import hvd

import distloss

ENTRY = Entry(
    bug="B4",
    title="`hvd.DistributedOptimizer` of Keras 3 in `fit`",
    reported=("horovod/horovod#3725", "horovod/horovod#3822"),
    cause="not-reduced",
    engine="horovod",
    mended_by="`prepare(model, replicas=HorovodReplicas())`",
)


def wrong():
    hvd.init()
    model = small_model()
    model.compile(optimizer=hvd_keras.DistributedOptimizer(sgd()), loss="mse")
    return model, regression_rows()


def mended():
    hvd.init()
    model = small_model()
    model.compile(optimizer=sgd(), loss="mse")
    replicas = distloss.HorovodReplicas()
    return distloss.prepare(model, replicas=replicas), regression_rows()

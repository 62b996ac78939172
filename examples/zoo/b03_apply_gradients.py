"""A plain tape, and `apply_gradients` of a wrapped optimizer.

`hvd.DistributedOptimizer` reduces where gradients are computed; a custom loop that
computes its own passes that by. There is no error.

Reported: https://github.com/horovod/horovod/issues/291,
https://github.com/horovod/horovod/issues/303,
https://github.com/deepmodeling/deepmd-kit/issues/1104

Symptom: no network traffic; processes print different validation losses.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses, sgd, small_model
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="B3",
    title="a plain tape with `hvd.DistributedOptimizer`",
    reported=(
        "horovod/horovod#291",
        "horovod/horovod#303",
        "deepmodeling/deepmd-kit#1104",
    ),
    cause="not-reduced",
    engine="horovod",
    mended_by="`hvd.DistributedGradientTape(op=hvd.Sum)`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    hvd.init()
    model = small_model()
    optimizer = sgd()
    optimizer.build(model.trainable_variables)
    optimizer = hvd.DistributedOptimizer(optimizer)
    return Loop(loss_of, model, optimizer), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

"""Horovod's average over processes that hold unequal numbers of rows.

The default everywhere in Horovod: right for equal parts only.

Reported: https://github.com/horovod/horovod/issues/843 (sum or average?),
https://github.com/facebookresearch/fairchem/issues/269

Symptom: none to be seen; the last batch of each epoch moves the weights elsewhere.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses, sgd
from _entry import Entry
from _horovod import TapeLoop, hvd

import distloss

ENTRY = Entry(
    bug="A5",
    title="Horovod's average over unequal parts",
    reported=("horovod/horovod#843", "facebookresearch/fairchem#269"),
    cause="mean-of-means",
    engine="horovod",
    mended_by="`mean_share` and `DistributedOptimizer`, both of `HorovodReplicas()`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    return TapeLoop(loss_of), regression_rows()


def mended():
    hvd.init()
    replicas = distloss.HorovodReplicas()

    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y), replicas=replicas)

    optimizer = distloss.DistributedOptimizer(sgd(), replicas=replicas)
    return Loop(loss_of, optimizer=optimizer), regression_rows()

"""`reduce_mean(losses * weights)` taken for the weighted mean.

It divides by the number of rows and not by their weight, and so does
`compute_average_loss` with `sample_weight`, on one replica as well as on many. Here it
is also the mean of local means.

Reported: https://github.com/tensorflow/tensorflow/issues/29614

Symptom: the loss and the length of a step depend on the unit of the weights.
"""

import tensorflow as tf
from _common import Loop, replica_count, row_losses, weighted_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A11",
    title="weighted losses divided by rows",
    reported=("tensorflow/tensorflow#29614",),
    cause="weights-divided-by-rows",
    engine="strategy",
    mended_by="`mean_share(losses, weights)`",
)


def wrong():
    def loss_of(model, x, y, weight):
        weighted = row_losses(model, x, y) * weight
        return tf.reduce_mean(weighted) / replica_count()

    return Loop(loss_of), weighted_rows()


def mended():
    def loss_of(model, x, y, weight):
        return distloss.mean_share(row_losses(model, x, y), weight)

    return Loop(loss_of), weighted_rows()

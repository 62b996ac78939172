"""`tf.nn.compute_average_loss` without `global_batch_size`.

It then takes the rows of this replica times N for the rows of the batch, which holds
only where all replicas have as many.

Reported: https://github.com/tensorflow/tensorflow/issues/48875

Symptom: none to be seen; the last batch of each epoch moves the weights elsewhere.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A5",
    title="`compute_average_loss` that guesses the batch size",
    reported=("tensorflow/tensorflow#48875",),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.nn.compute_average_loss(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

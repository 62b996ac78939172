"""`compute_average_loss(losses, G)`: the batch size in the place of the weights.

The second parameter is `sample_weight`. The loss is then G times the mean, on one
replica as well as on many, so comparing these shows nothing.

Reported: https://github.com/tensorflow/tensorflow/issues/48572

Symptom: the loss is larger than expected by the batch size.
"""

import tensorflow as tf
from _common import ROWS, Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A11",
    title="the batch size given as `sample_weight`",
    reported=("tensorflow/tensorflow#48572",),
    cause="batch-size-as-weight",
    engine="strategy",
    mended_by="`mean_share`",
)


def wrong():
    def loss_of(model, x, y):
        return tf.nn.compute_average_loss(row_losses(model, x, y), ROWS)

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

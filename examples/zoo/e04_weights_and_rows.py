"""A loss object weighs the rows, and their mean is taken: it divides by rows.

One way to write a loss divided by the sum of the weights, another by the number of
rows; which of them it was depended on whether a string or a function was given.

Reported: https://github.com/tensorflow/tensorflow/issues/29965

Symptom: rows of weight 0 make the loss smaller. Half of them, half the loss.
"""

import tensorflow as tf
from _common import Loop, keras, replica_count, weighted_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="E4",
    title="rows weighted by a loss object, and divided by their number",
    reported=("tensorflow/tensorflow#29965",),
    cause="weights-divided-by-rows",
    engine="strategy",
    mended_by="`mean_share(losses, weights)`",
)


def wrong():
    mean_squared_error = keras.losses.MeanSquaredError(reduction=None)

    def loss_of(model, x, y, weight):
        losses = mean_squared_error(y, model(x, training=True), sample_weight=weight)
        return tf.reduce_mean(losses) / replica_count()

    return Loop(loss_of), weighted_rows()


def mended():
    mean_squared_error = keras.losses.MeanSquaredError(reduction=None)

    def loss_of(model, x, y, weight):
        losses = mean_squared_error(y, model(x, training=True))
        return distloss.mean_share(losses, weight)

    return Loop(loss_of), weighted_rows()

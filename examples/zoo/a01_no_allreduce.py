"""The optimizer does not sum over replicas: each trains a copy of its own.

Keras 3.0.0 to 3.4.1 under MirroredStrategy. From 3.2.1 on there was a sum, in a place
where it returned what it was given.

Reported: https://github.com/keras-team/keras/issues/19891,
https://github.com/keras-team/keras/issues/19308

Symptom: more GPUs bring no benefit; the copies of the weights drift apart without a
word. Acted here in today's Keras by an optimizer whose sum returns its input.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, keras, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A1",
    title="an optimizer that does not sum over replicas",
    reported=("keras-team/keras#19891", "keras-team/keras#19308"),
    cause="not-reduced",
    engine="strategy",
    mended_by="Keras 3.8 or later, and `mean_share`",
)


class Unreduced(keras.optimizers.SGD):
    """SGD as Keras had it until 3.4.1."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y))

    return Loop(loss_of, optimizer=Unreduced(LEARNING_RATE)), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

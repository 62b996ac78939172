"""A loop divides all that layers add by N, and one of them adds a sum over rows.

`regularization_share(model.losses)` is right for what is the same on every replica: a
regulariser. A sum over rows is another one on each, and N replicas add up to 1/N of it.

No issue found; the scaling came with https://github.com/keras-team/keras/pull/20609

Symptom: the added term has the less effect the more replicas there are.
"""

import tensorflow as tf
from _common import Loop, dense, keras, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A19",
    title="a sum over rows that a layer adds, divided by N in a loop",
    reported=("keras-team/keras#20609",),
    cause="added-loss-divided",
    engine="strategy",
    mended_by="the sum as it is; N-th parts of regularisers only",
)


class Small(keras.layers.Layer):
    """Passes on its input, and adds the sum of the sizes of its rows to the loss."""

    def call(self, inputs):
        """`inputs`."""
        self.add_loss(0.01 * tf.reduce_sum(inputs**2))
        return inputs


def model():
    return keras.Sequential([keras.Input([3]), dense(4, "tanh"), Small(), dense(1)])


def wrong():
    def loss_of(model, x, y):
        mean = distloss.mean_share(row_losses(model, x, y))
        return mean + distloss.regularization_share(model.losses)

    return Loop(loss_of, model()), regression_rows()


def mended():
    def loss_of(model, x, y):
        mean = distloss.mean_share(row_losses(model, x, y))
        return mean + tf.add_n(model.losses)

    return Loop(loss_of, model()), regression_rows()

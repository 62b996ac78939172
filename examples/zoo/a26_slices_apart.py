"""Adam squares each slice of a sparse gradient by itself.

The gradient of a position embedding has one slice for each position on one replica and
N of them on N, since the slices of all replicas are put one after the other. Keras 3
updates slice by slice: the sum of N squares is not the square of the sum.

Related: https://github.com/keras-team/keras/issues/19992

Symptom: with the same gradients, weights of embeddings move by other amounts.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, dense, keras, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A26",
    title="a position embedding updated slice by slice",
    reported=("keras-team/keras#19992",),
    cause="sparse-slices-apart",
    engine="strategy",
    mended_by="slices added up, here by a dense gradient",
)


class Positions(keras.layers.Layer):
    """Adds what is learned for each column of a row to it."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(3, 1)

    def build(self, _shape):
        """Makes the table."""
        self.table.build(None)

    def call(self, inputs):
        """`inputs` and the table."""
        return inputs + self.table(tf.range(3))[:, 0]


class Dense(Loop):
    """Gives the optimizer dense gradients."""

    def gradients(self, batch):
        """The loss of this replica's part of the batch, and its gradients."""
        loss, gradients = super().gradients(batch)
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def parts():
    layers = [keras.Input([3]), Positions(), dense(4, "tanh"), dense(1)]
    return loss_of, keras.Sequential(layers), keras.optimizers.Adam(LEARNING_RATE)


def wrong():
    return Loop(*parts()), regression_rows()


def mended():
    return Dense(*parts()), regression_rows()

"""A layer adds a sum over the rows of the batch with `add_loss`.

Keras divides what is added by the number of replicas: right for a regulariser or a
mean over rows, N times too small for a sum, such as the KL term of many autoencoders.

No issue found; the scaling came with https://github.com/keras-team/keras/pull/20609

Symptom: the added term has the less effect the more replicas there are.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, replica_count
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A19",
    title="`add_loss` of a sum over rows",
    reported=("keras-team/keras#20609",),
    cause="divided-twice",
    engine="strategy",
    mended_by='add N times a `DistributedLoss(..., reduction="sum")`',
)


class Small(keras.layers.Layer):
    """Passes on its input, and adds the size of each row to the loss."""

    def __init__(self, added):
        super().__init__()
        self.added = added  # the size of each row, `[rows]` -> what is added

    def call(self, inputs):
        """`inputs`."""
        self.add_loss(self.added(tf.reduce_sum(inputs**2, axis=-1)))
        return inputs


def compiled(added):
    hidden = [dense(4), Small(added), dense(1)]
    model = keras.Sequential([keras.Input([3]), *hidden])
    loss = distloss.DistributedLoss("mse", reduction="sum")
    # sums of rows need shorter steps than means
    model.compile(optimizer=keras.optimizers.SGD(0.001), loss=loss)
    return model


def wrong():
    return compiled(tf.reduce_sum), regression_rows()


def mended():
    loss = distloss.DistributedLoss(lambda _, size: size, reduction="sum")

    def added(size):
        return replica_count() * loss(size, size)

    return compiled(added), regression_rows()

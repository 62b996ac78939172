"""`train_step` returns this replica's share as the loss of the batch.

The gradient is right. `fit` shows the mean over replicas of what they return, that is
1/N of the loss.

Reported: https://github.com/keras-team/keras/issues/15509,
https://github.com/keras-team/keras/issues/19340,
https://github.com/tensorflow/tensorflow/issues/45923

Symptom: "the loss is 1/N", "can I trust that the model is trained correctly?"
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, replica_count, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A10",
    title="a share returned from `train_step` as the loss",
    reported=(
        "keras-team/keras#15509",
        "keras-team/keras#19340",
        "tensorflow/tensorflow#45923",
    ),
    cause="report-only",
    engine="strategy",
    mended_by="return N times the value of `DistributedLoss`",
)


class Trained(keras.Model):
    """A model with a step of its own."""

    def __init__(self, share_of_loss, reported, **arguments):
        super().__init__(**arguments)
        self.share_of_loss, self.reported = share_of_loss, reported

    def train_step(self, data):
        """One update from this replica's rows."""
        x, y = data
        with tf.GradientTape() as tape:
            share = self.share_of_loss(y, self(x, training=True))
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": self.reported(share)}


def compiled(share_of_loss, reported):
    x = keras.Input([3])
    y = dense(1)(dense(4, "tanh")(x))
    model = Trained(share_of_loss, reported, inputs=x, outputs=y)
    model.compile(optimizer=sgd())
    return model


def wrong():
    def share_of_loss(y_true, y_pred):
        losses = keras.losses.mean_squared_error(y_true, y_pred)
        return distloss.mean_share(losses)

    return compiled(share_of_loss, lambda share: share), regression_rows()


def mended():
    loss = distloss.DistributedLoss("mse")
    return compiled(loss, lambda share: share * replica_count()), regression_rows()

"""The shown loss is a mean of means: a short last part counts like a full one.

The gradient is right. Each replica adds the mean over its rows to a metric, as one
value, however few rows it holds.

Reported: https://github.com/tensorflow/tensorflow/issues/38596 (batches of `evaluate`
and `fit`). Keras has mended it since; a metric of one's own repeats it.

Symptom: the loss in the log depends on how rows are dealt, training does not.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="E1",
    title="a mean metric that is given means of unequal parts",
    reported=("tensorflow/tensorflow#38596",),
    cause="report-only",
    engine="strategy",
    mended_by="give the metric the loss of each row",
)


class Trained(keras.Model):
    """A model that keeps its own average of the loss."""

    def __init__(self, shown, **arguments):
        super().__init__(**arguments)
        self.shown = shown
        self.seen = keras.metrics.Mean(name="loss")

    def train_step(self, data):
        """One update from this replica's rows."""
        x, y = data
        with tf.GradientTape() as tape:
            losses = keras.losses.mean_squared_error(y, self(x, training=True))
            share = distloss.mean_share(losses)
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.seen.update_state(self.shown(losses))
        return {"loss": self.seen.result()}


def compiled(shown):
    x = keras.Input([3])
    model = Trained(shown, inputs=x, outputs=dense(1)(dense(4, "tanh")(x)))
    model.compile(optimizer=sgd())
    return model


def wrong():
    return compiled(tf.reduce_mean), regression_rows()


def mended():
    return compiled(lambda losses: losses), regression_rows()

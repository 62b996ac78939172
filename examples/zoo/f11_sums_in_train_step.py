"""A model's own `train_step` adds each gradient to the sum of those before it.

The sum was meant for several small batches; with one batch per update it is never
emptied. Written for `fit`.

Reported: https://stackoverflow.com/questions/60335387 (no `zero_grad`), reproduced by
TrainCheck, https://github.com/OrderLab/TrainCheck; the same pattern in a `train_step`:
https://github.com/tensorflow/addons/issues/2686

Symptom: steps grow; the loss explodes, or swings.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F11",
    title="a `train_step` that keeps the gradients of earlier steps",
    reported=("tensorflow/addons#2686",),
    cause="gradients-not-cleared",
    engine="strategy",
    mended_by="`prepare(model)`, and no sum of one's own",
)


class Summing(keras.Model):
    """Sums gradients over steps, in weights that are not trained."""

    mean_squared_error = distloss.DistributedLoss("mse")

    def build_sums(self):
        """One sum for each variable."""
        self.sums = [
            self.add_weight(
                shape=variable.shape,
                initializer="zeros",
                trainable=False,
                aggregation="sum",
                name=f"sum_{index}",
            )
            for index, variable in enumerate(self.trainable_variables)
        ]

    def train_step(self, data):
        """One update from this replica's rows, and from all that came before."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.mean_squared_error(y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(gradient)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        parts = [total / replicas for total in self.sums]
        self.optimizer.apply(parts, self.trainable_variables)
        return {"loss": loss * replicas}


def compiled(model_class, **arguments):
    x = keras.Input([3])
    model = model_class(x, dense(1)(dense(4, "tanh")(x)))
    model.compile(optimizer=sgd(), **arguments)
    return model


def wrong():
    model = compiled(Summing)
    model.build_sums()
    return model, regression_rows()


def mended():
    return distloss.prepare(compiled(keras.Model, loss="mse")), regression_rows()

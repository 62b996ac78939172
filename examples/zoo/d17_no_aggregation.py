"""An optimizer is told not to add up over replicas, and nobody else does.

`skip_gradients_aggregation=True` (before, `experimental_aggregate_gradients=False`) is
for loops that all-reduce by hand, to clip in between. Copied without that, each replica
of a mirrored variable gets its own update.

Asked: https://github.com/tensorflow/models/issues/8433 (how are gradients aggregated in
a loop of one's own?), https://github.com/tensorflow/tensorflow/issues/36398

Symptom: replicas drift apart; what is saved is the first one.
"""

import tensorflow as tf
import tf_keras
from _common import regression_rows, replica_count
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="D17",
    title="`skip_gradients_aggregation=True` and no sum by hand",
    reported=("tensorflow/models#8433", "tensorflow/tensorflow#36398"),
    cause="not-reduced",
    engine="strategy",
    mended_by="`all_reduce` by hand",
)


class OwnSum:
    """A loop with an optimizer of tf-keras, which does not add up."""

    def __init__(self, summed):
        self.summed = summed
        start = tf_keras.initializers.GlorotUniform(seed=4)
        self.model = tf_keras.Sequential(
            [
                tf_keras.layers.Dense(4, "tanh", kernel_initializer=start),
                tf_keras.layers.Dense(1, kernel_initializer=start),
            ]
        )
        self.model.build([None, 3])
        self.optimizer = tf_keras.optimizers.SGD(0.1)
        self.optimizer.build(self.model.trainable_variables)

    @property
    def trainable_variables(self):
        """What is trained."""
        return self.model.trainable_variables

    def train_step(self, batch):
        """One update."""
        x, y = batch
        with tf.GradientTape() as tape:
            losses = tf_keras.losses.mean_squared_error(y, self.model(x))
            share = distloss.mean_share(losses)
        gradients = self.summed(tape.gradient(share, self.trainable_variables))
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True),
            skip_gradients_aggregation=True,
        )
        return share * replica_count()


def wrong():
    return OwnSum(lambda gradients: gradients), regression_rows()


def mended():
    def summed(gradients):
        context = tf.distribute.get_replica_context()
        return context.all_reduce("SUM", gradients)

    return OwnSum(summed), regression_rows()

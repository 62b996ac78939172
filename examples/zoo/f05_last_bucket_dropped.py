"""Gradients are summed in buckets, and what does not fill the last one is not.

The variables of the last bucket are updated with the gradient of each replica's own
rows: their copies drift apart, the others are right.

Reported: https://github.com/pytorch/pytorch/issues/84803,
https://github.com/pytorch/pytorch/issues/96600 (a part of what is sent is lost);
reproduced by TrainCheck, https://github.com/OrderLab/TrainCheck

Symptom: none in the loss; a bias or two differ between copies.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, keras, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F5",
    title="gradients summed in buckets, without the last one",
    reported=("pytorch/pytorch#84803", "pytorch/pytorch#96600"),
    cause="not-reduced",
    engine="strategy",
    mended_by="round the number of buckets up",
)

BUCKET = 3


class SumsNothing(keras.optimizers.SGD):
    """For gradients that are summed already."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


class Bucketed(Loop):
    """Sums `BUCKET` gradients at a time."""

    def __init__(self, buckets):
        super().__init__(loss_of, optimizer=SumsNothing(LEARNING_RATE))
        self.buckets = buckets

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        context = tf.distribute.get_replica_context()
        for index in range(self.buckets(len(gradients))):
            bucket = slice(index * BUCKET, (index + 1) * BUCKET)
            gradients[bucket] = context.all_reduce("SUM", gradients[bucket])
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return Bucketed(lambda count: count // BUCKET), regression_rows()


def mended():
    return Bucketed(lambda count: -(-count // BUCKET)), regression_rows()

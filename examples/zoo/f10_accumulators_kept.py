"""Gradients of micro-batches are added to variables that nobody sets back to zero.

The first step is right. From the second on each update contains the gradients of all
steps before it.

Reported: https://stackoverflow.com/questions/60335387 (no `zero_grad`), reproduced by
TrainCheck, https://github.com/OrderLab/TrainCheck; accumulators for TensorFlow:
https://github.com/tensorflow/addons/issues/2260

Symptom: like a learning rate that grows with every step.
"""

import tensorflow as tf
from _common import Loop, in_parts, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F10",
    title="accumulators that are not cleared between steps",
    reported=("tensorflow/addons#2260",),
    cause="gradients-not-cleared",
    engine="strategy",
    mended_by="set them to zero after each update",
)

PARTS = 2


class Accumulating(Loop):
    """Adds up in variables of each replica."""

    def __init__(self, clears):
        super().__init__(loss_of)
        self.clears = clears
        self.sums = [
            tf.Variable(
                tf.zeros(variable.shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for variable in self.trainable_variables
        ]

    def train_step(self, batch):
        """One update."""
        rows = distloss.StrategyReplicas().sum(
            tf.cast(tf.shape(batch[0])[0], "float32")
        )
        losses = []
        for part in in_parts(batch, PARTS):
            loss, gradients = self.gradients((*part, rows))
            losses.append(loss)
            for total, gradient in zip(self.sums, gradients, strict=True):
                total.assign_add(gradient)
        totals = [tf.identity(total) for total in self.sums]
        self.optimizer.apply(totals, self.trainable_variables)
        if self.clears:
            for total in self.sums:
                total.assign(tf.zeros_like(total))
        return tf.add_n(losses)


def loss_of(model, x, y, rows):
    return tf.reduce_sum(row_losses(model, x, y)) / rows


def wrong():
    return Accumulating(clears=False), regression_rows()


def mended():
    return Accumulating(clears=True), regression_rows()

"""Variables that take the update of the first replica and drop those of the others.

`aggregation=ONLY_FIRST_REPLICA` is meant for counters. On weights it keeps all copies
alike, and trains on the rows of one replica.

Reported: https://github.com/pytorch/pytorch/issues/84803,
https://github.com/pytorch/pytorch/issues/96600,
https://github.com/baichuan-inc/Baichuan2/issues/86 (data lost between devices, by
drivers); reproduced by TrainCheck, https://github.com/OrderLab/TrainCheck

Symptom: more devices bring no benefit; checks that compare copies see nothing.
"""

import tensorflow as tf
from _common import LEARNING_RATE, regression_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F4",
    title="the update of the first replica only",
    reported=(
        "pytorch/pytorch#84803",
        "pytorch/pytorch#96600",
        "baichuan-inc/Baichuan2#86",
    ),
    cause="not-reduced",
    engine="strategy",
    mended_by="sum gradients over replicas first",
)


class Line:
    """A linear model without Keras."""

    def __init__(self, aggregation):
        def variable(start, name):
            return tf.Variable(start, name=name, aggregation=aggregation)

        self.kernel = variable(tf.constant([[0.3], [-0.2], [0.5]]), "kernel")
        self.bias = variable(tf.zeros([1]), "bias")

    @property
    def trainable_variables(self):
        """What is trained."""
        return [self.kernel, self.bias]

    def train_step(self, batch):
        """One update."""
        x, y = batch
        with tf.GradientTape() as tape:
            errors = tf.square(x @ self.kernel + self.bias - y)
            loss = distloss.mean_share(errors)
        gradients = tape.gradient(loss, self.trainable_variables)
        for variable, gradient in zip(
            self.trainable_variables, self.reduced(gradients), strict=True
        ):
            variable.assign_sub(LEARNING_RATE * gradient)
        return loss

    def reduced(self, gradients):
        """What the variables get: here what this replica has."""
        return gradients


class SummedLine(Line):
    """All replicas subtract the same."""

    def reduced(self, gradients):
        """The sum over replicas."""
        return tf.distribute.get_replica_context().all_reduce("SUM", gradients)


def wrong():
    return Line(tf.VariableAggregation.ONLY_FIRST_REPLICA), regression_rows()


def mended():
    return SummedLine(tf.VariableAggregation.MEAN), regression_rows()

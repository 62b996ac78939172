"""An update that bypasses the optimizer writes to this replica's copy only.

A raw operation takes the handle of a variable, which in a replica is that of its own
copy: nothing is summed, and copies drift apart.

Reported: https://github.com/pytorch/pytorch/issues/104336 (gradients that are not
synchronised where hooks are missing); reproduced by TrainCheck,
https://github.com/OrderLab/TrainCheck

Symptom: more devices bring no benefit; copies of the weights differ.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F3",
    title="a raw update of this replica's copy of the weights",
    reported=("pytorch/pytorch#104336",),
    cause="not-reduced",
    engine="strategy",
    mended_by="sum gradients over replicas first",
)


class Raw(Loop):
    """Plain SGD by a fused operation."""

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        self.descend(gradients)
        return loss

    def descend(self, gradients):
        """One step downhill."""
        for variable, gradient in zip(self.trainable_variables, gradients, strict=True):
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.value.handle, alpha=LEARNING_RATE, delta=gradient
            )


class RawSum(Raw):
    """The same, of the sum over replicas."""

    def descend(self, gradients):
        """One step downhill."""
        context = tf.distribute.get_replica_context()
        super().descend(context.all_reduce("SUM", gradients))


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return Raw(loss_of), regression_rows()


def mended():
    return RawSum(loss_of), regression_rows()

"""`variable = variable - rate * gradient` gives a name another value.

The variables stay as they are: it is Python's name that is bound to a new tensor.

Reported: https://github.com/pytorch/pytorch/issues/115607 (a compiled step whose
`optimizer.step` changes nothing); reproduced by TrainCheck,
https://github.com/OrderLab/TrainCheck

Symptom: the loss stays where it is; the norm of the gradient looks well.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F8",
    title="an update that only changes what a name means",
    reported=("pytorch/pytorch#115607",),
    cause="no-update",
    engine="strategy",
    mended_by="`optimizer.apply`",
)


class ByHand(Loop):
    """Gradient descent in a few lines."""

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        gradients = tf.distribute.get_replica_context().all_reduce("SUM", gradients)
        for variable, gradient in zip(self.trainable_variables, gradients, strict=True):
            variable = variable - LEARNING_RATE * gradient
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return ByHand(loss_of), regression_rows()


def mended():
    return Loop(loss_of), regression_rows()

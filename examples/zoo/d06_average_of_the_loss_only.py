"""The loss is all-reduced, the gradients are not.

"Should the loss be averaged using allreduce?" It looks as if that made one loss of all,
of which any tape takes the gradient. But the gradient of `hvd.allreduce` gives back to
each process the slope of its own part, and nobody adds these up.

Reported: https://github.com/horovod/horovod/issues/482,
https://github.com/horovod/horovod/issues/2654

Symptom: all processes print the same loss, and train models of their own.
"""

import tensorflow as tf
from _common import regression_rows, sgd, small_model
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D6",
    title="an all-reduced loss with a plain tape",
    reported=("horovod/horovod#482", "horovod/horovod#2654"),
    cause="not-reduced",
    engine="horovod",
    mended_by="`hvd.DistributedGradientTape`; the all-reduced loss for the log only",
)


class Averaged:
    """A loop that makes one loss of all processes."""

    def __init__(self):
        hvd.init()
        self.model, self.optimizer = small_model(), sgd()

    @property
    def trainable_variables(self):
        """What is trained."""
        return self.model.trainable_variables

    def train_step(self, batch):
        """One update."""
        x, y = batch
        with tf.GradientTape() as tape:
            error = y - self.model(x, training=True)
            loss = hvd.allreduce(tf.reduce_mean(tf.square(error)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def wrong():
    return Averaged(), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(tf.square(y - model(x, training=True)))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

"""A custom loop clips what the tape returns, before the optimizer adds up replicas.

What the tape returns is the gradient of this replica's rows.

Related: https://github.com/tensorflow/tensorflow/issues/33929,
https://github.com/mlcommons/training_policies/issues/432

Symptom: with the same limit, steps depend on the number of replicas.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A13",
    title="`tf.clip_by_global_norm` in a custom loop",
    reported=("tensorflow/tensorflow#33929", "mlcommons/training_policies#432"),
    cause="clip-before-sum",
    engine="strategy",
    mended_by="sum by hand, clip, and apply N-th parts",
)


class Clipping(Loop):
    """Clips first."""

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        gradients, _ = tf.clip_by_global_norm(gradients, 0.5)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


class ClippingTheSum(Loop):
    """Sums first. The optimizer will sum again, N equal parts."""

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce("SUM", gradients)
        gradients, _ = tf.clip_by_global_norm(gradients, 0.5)
        parts = [gradient / context.num_replicas_in_sync for gradient in gradients]
        self.optimizer.apply(parts, self.trainable_variables)
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return Clipping(loss_of), regression_rows()


def mended():
    return ClippingTheSum(loss_of), regression_rows()

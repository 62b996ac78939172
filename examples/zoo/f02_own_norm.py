"""The summed gradient is scaled by a norm that each replica took of its own part.

The norm is taken before the sum, to save a pass; so each replica scales the same sum
by another factor, and replicas drift apart.

Reported: https://github.com/pytorch/torchtitan/issues/766 (norms that differ by rank);
the drift is that of https://github.com/deepspeedai/DeepSpeed/pull/1801, reproduced by
TrainCheck, https://github.com/OrderLab/TrainCheck

Symptom: logged norms differ by rank; the loss looks well.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, keras, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F2",
    title="the summed gradient, scaled by the norm of a replica's own part",
    reported=("pytorch/torchtitan#766", "deepspeedai/DeepSpeed#1801"),
    cause="not-reduced",
    engine="strategy",
    mended_by="the norm of the sum",
)

LIMIT = 0.5


class SumsNothing(keras.optimizers.SGD):
    """For gradients that are summed already."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


class Scaling(Loop):
    """Sums by hand, and scales by the norm of its own part or of the sum."""

    def __init__(self, of_the_sum):
        super().__init__(loss_of, optimizer=SumsNothing(LEARNING_RATE))
        self.of_the_sum = of_the_sum

    def train_step(self, batch):
        """One update."""
        loss, own = self.gradients(batch)
        sums = tf.distribute.get_replica_context().all_reduce("SUM", own)
        norm = tf.linalg.global_norm(sums if self.of_the_sum else own)
        factor = LIMIT / tf.maximum(norm, LIMIT)
        self.optimizer.apply([factor * g for g in sums], self.trainable_variables)
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return Scaling(of_the_sum=False), regression_rows()


def mended():
    return Scaling(of_the_sum=True), regression_rows()

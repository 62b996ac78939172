"""The gradients are summed; then one replica clips, and the others do not.

A condition on the rank guards the clipping. Replicas apply different gradients, and
their weights are different ones after the first step.

Reported: https://github.com/deepspeedai/DeepSpeed/pull/1801 (BLOOM-176B: ranks above 0
skipped the clipping, layer norms drifted apart for days); reproduced by TrainCheck,
https://github.com/OrderLab/TrainCheck

Symptom: none in the loss; checkpoints of different ranks disagree.
"""

import tensorflow as tf
from _common import LEARNING_RATE, Loop, keras, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="F1",
    title="one replica clips the summed gradient, the others do not",
    reported=("deepspeedai/DeepSpeed#1801",),
    cause="not-reduced",
    engine="strategy",
    mended_by="all clip",
)


class SumsNothing(keras.optimizers.SGD):
    """For gradients that are summed already."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


class ClippingTheSum(Loop):
    """Sums by hand, clips where `clips` says so."""

    def __init__(self, clips):
        super().__init__(loss_of, optimizer=SumsNothing(LEARNING_RATE))
        self.clips = clips

    def train_step(self, batch):
        """One update."""
        loss, gradients = self.gradients(batch)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce("SUM", gradients)
        if self.clips(context.replica_id_in_sync_group):
            gradients, _ = tf.clip_by_global_norm(gradients, 0.5)
        self.optimizer.apply(gradients, self.trainable_variables)
        return loss


def loss_of(model, x, y):
    return distloss.mean_share(row_losses(model, x, y))


def wrong():
    return ClippingTheSum(lambda rank: rank == 0), regression_rows()


def mended():
    return ClippingTheSum(lambda rank: True), regression_rows()

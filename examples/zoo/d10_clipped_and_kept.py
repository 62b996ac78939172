"""A wrapped optimizer, but its gradients come from a plain tape, by way of a clip.

Clipping needs the gradients in hand; they were taken from `tf.gradients` instead of the
optimizer that would have reduced them. There was no traffic, and no error.

Reported: https://github.com/horovod/horovod/issues/141

Symptom: as fast on N processes as on one, and each trains for itself.
"""

import tensorflow as tf
from _common import keras, regression_rows, row_losses, small_model
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D10",
    title="clipped gradients that pass `hvd.DistributedOptimizer` by",
    reported=("horovod/horovod#141",),
    cause="not-reduced",
    engine="horovod",
    mended_by="`hvd.DistributedGradientTape(op=hvd.Sum)` before the clip",
)


class Clipping:
    """Clips by the norm of all gradients, in a step with momentum."""

    def __init__(self, tape_of, optimizer_of):
        hvd.init()
        self.tape_of = tape_of
        self.model = small_model()
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        optimizer.build(self.model.trainable_variables)
        self.optimizer = optimizer_of(optimizer)

    @property
    def trainable_variables(self):
        """What is trained."""
        return self.model.trainable_variables

    def train_step(self, batch):
        """One update."""
        with tf.GradientTape() as tape:
            share = share_of_rows(row_losses(self.model, *batch))
        values = [variable.value for variable in self.trainable_variables]
        gradients = self.tape_of(tape).gradient(share, values)
        gradients, _ = tf.clip_by_global_norm(gradients, 5.0)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        return share


def wrong():
    return Clipping(lambda tape: tape, hvd.DistributedOptimizer), regression_rows()


def mended():
    def summed(tape):
        return hvd.DistributedGradientTape(tape, op=hvd.Sum)

    return Clipping(summed, lambda optimizer: optimizer), regression_rows()

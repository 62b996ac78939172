"""What Horovod entries share: a custom loop around `hvd.DistributedGradientTape`."""

import horovod.tensorflow as hvd
import tensorflow as tf
from _common import Loop

__all__ = ["TapeLoop", "hvd"]


class TapeLoop(Loop):
    """The body of a custom loop, on each process with its rows of the batch."""

    def __init__(self, loss_of, op=None, model=None):
        hvd.init()
        super().__init__(loss_of, model)
        self.op = op or hvd.Average  # which is the default of Horovod

    def gradients(self, batch):
        """The loss of this process' rows; its gradients, reduced over processes."""
        with tf.GradientTape() as tape:
            loss = self.loss_of(self.model, *batch)
        tape = hvd.DistributedGradientTape(tape, op=self.op)
        # Horovod does not know variables of Keras 3, but those of TensorFlow in them
        values = [variable.value for variable in self.trainable_variables]
        return loss, tape.gradient(loss, values)


def mean_of_rows(values):
    """The local mean; 0 for no rows."""
    rows = tf.cast(tf.size(values), values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values), rows)


def share_of_rows(values):
    """The local sum by the rows of all processes; add up gradients with `hvd.Sum`."""
    rows = hvd.allreduce(tf.cast(tf.size(values), values.dtype), op=hvd.Sum)
    return tf.reduce_sum(values) / rows

"""Gradients are reduced in every fourth step only, and applied in each.

Meant to save traffic: three steps on the rows of one process, then one of all. But
weights are apart by then, and averaged gradients do not bring them together again.

Reported: https://github.com/horovod/horovod/issues/2690,
https://github.com/horovod/horovod/issues/1624

Symptom: processes drift apart, the more the rarer they talk.
"""

import tensorflow as tf
from _common import Loop, keras, regression_rows, row_losses
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D15",
    title="a reduction in every fourth step",
    reported=("horovod/horovod#2690", "horovod/horovod#1624"),
    cause="not-reduced",
    engine="horovod",
    mended_by="a reduction in each step",
)


class Seldom(Loop):
    """Counts steps, and reduces in those whose number `every` divides."""

    def __init__(self, every):
        hvd.init()
        super().__init__(lambda *args: share_of_rows(row_losses(*args)))
        zero = keras.initializers.Zeros()
        self.step = keras.Variable(zero, shape=[], dtype="int32", trainable=False)
        self.every = every

    def gradients(self, batch):
        """The share of this process; its gradients, or those of all."""
        share, gradients = super().gradients(batch)
        self.step.assign_add(1)
        return share, tf.cond(
            tf.equal(self.step.value % self.every, 0),
            lambda: [hvd.allreduce(gradient, op=hvd.Sum) for gradient in gradients],
            lambda: [tf.identity(gradient) for gradient in gradients],
        )


def wrong():
    return Seldom(4), regression_rows()


def mended():
    return Seldom(1), regression_rows()

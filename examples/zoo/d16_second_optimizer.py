"""Two optimizers, wide and deep, and only one of the two gets reduced gradients.

Each optimizer had to be wrapped by itself. Where one is forgotten, its part of the
model drifts apart, and the other part is trained on top of that.

Reported: https://github.com/horovod/horovod/issues/351,
https://github.com/horovod/horovod/issues/799

Symptom: a part of the weights differs between processes.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D16",
    title="a second optimizer whose gradients nobody reduces",
    reported=("horovod/horovod#351", "horovod/horovod#799"),
    cause="not-reduced",
    engine="horovod",
    mended_by="one `hvd.DistributedGradientTape` for both",
)


class WideAndDeep:
    """A linear part with Ftrl, a deep one with Adagrad."""

    def __init__(self, tapes):
        hvd.init()
        self.tapes = tapes
        self.wide = keras.Sequential([keras.Input([3]), dense(1, use_bias=False)])
        self.deep = keras.Sequential([keras.Input([3]), dense(4, "tanh"), dense(1)])
        self.for_wide = keras.optimizers.Ftrl(0.1)
        self.for_deep = keras.optimizers.Adagrad(0.1)
        self.for_wide.build(self.wide.trainable_variables)
        self.for_deep.build(self.deep.trainable_variables)

    @property
    def trainable_variables(self):
        """What is trained."""
        return self.wide.trainable_variables + self.deep.trainable_variables

    def train_step(self, batch):
        """One update of each part."""
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            losses = keras.losses.mean_squared_error(y, self.wide(x) + self.deep(x))
            share = share_of_rows(losses)
        wide_tape, deep_tape = self.tapes(tape)
        wide = [variable.value for variable in self.wide.trainable_variables]
        deep = [variable.value for variable in self.deep.trainable_variables]
        wide_gradients = wide_tape.gradient(share, wide)
        deep_gradients = deep_tape.gradient(share, deep)
        self.for_wide.apply(wide_gradients, self.wide.trainable_variables)
        self.for_deep.apply(deep_gradients, self.deep.trainable_variables)
        return share


def wrong():
    def tapes(tape):
        return tape, hvd.DistributedGradientTape(tape, op=hvd.Sum)

    return WideAndDeep(tapes), regression_rows()


def mended():
    def tapes(tape):
        both = hvd.DistributedGradientTape(tape, op=hvd.Sum)
        return both, both

    return WideAndDeep(tapes), regression_rows()

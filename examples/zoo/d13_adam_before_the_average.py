"""Adam makes a step on each process, and the weights are averaged.

Adam divides a gradient by its own size: steps of parts do not average to the step of
the whole, and their slots stay those of one process.

Reported: https://github.com/horovod/horovod/issues/1053,
https://github.com/horovod/horovod/issues/291

Symptom: a noisier training than with averaged gradients; slots differ on processes.
"""

from _common import keras, regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D13",
    title="weights averaged after local steps of Adam",
    reported=("horovod/horovod#1053", "horovod/horovod#291"),
    cause="not-linear-in-gradient",
    engine="horovod",
    mended_by="gradients summed, then one step of Adam",
)

BETA_1, BETA_2 = 0.9, 0.999


class Adam(TapeLoop):
    """The first step of Adam by hand, with gradients and steps of whom it is told."""

    def __init__(self, summed, averaged):
        super().__init__(lambda *args: share_of_rows(row_losses(*args)))
        self.summed, self.averaged = summed, averaged
        zeros = keras.initializers.Zeros()
        self.slots = [
            [keras.Variable(zeros, shape=v.shape, trainable=False) for _ in range(2)]
            for v in self.trainable_variables
        ]

    def gradients(self, batch):
        """The share of this process, and its gradients or those of all."""
        share, gradients = super(TapeLoop, self).gradients(batch)
        return share, [self.summed(gradient) for gradient in gradients]

    def train_step(self, batch):
        """One update."""
        share, gradients = self.gradients(batch)
        both = zip(self.trainable_variables, gradients, self.slots, strict=True)
        for variable, gradient, (first, second) in both:
            first.assign(BETA_1 * first + (1 - BETA_1) * gradient)
            second.assign(BETA_2 * second + (1 - BETA_2) * gradient**2)
            mean, square = first / (1 - BETA_1), second / (1 - BETA_2)
            step = 0.01 * mean / (keras.ops.sqrt(square) + 1e-3)
            variable.assign_sub(self.averaged(step))
        return share


def everywhere(op):
    return lambda values: hvd.allreduce(values, op=op)


def as_it_is(values):
    return values


def wrong():
    hvd.init()
    return Adam(as_it_is, everywhere(hvd.Average)), regression_rows()


def mended():
    hvd.init()
    return Adam(everywhere(hvd.Sum), as_it_is), regression_rows()

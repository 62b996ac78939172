"""A penalty on weights in the loss of each process, under `op=hvd.Sum`.

The rows of a process are a part of the batch, its weights are not: they are the same
everywhere. N processes add up N penalties.

Reported for strategies: https://github.com/tensorflow/models/issues/6601; for sums of
gradients by Horovod: https://github.com/horovod/horovod/issues/390

Symptom: stronger regularization, and smaller weights, on more processes.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D24",
    title="`tf.nn.l2_loss` of weights, summed over processes",
    reported=("tensorflow/models#6601", "horovod/horovod#390"),
    cause="regularization-not-scaled",
    engine="horovod",
    mended_by="an N-th of the penalty on each process",
)


def penalty(model):
    """Of kernels, not of biases."""
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    return 0.05 * tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in kernels])


def wrong():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y)) + penalty(model)

    return TapeLoop(loss_of, hvd.Sum), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y)) + penalty(model) / hvd.size()

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

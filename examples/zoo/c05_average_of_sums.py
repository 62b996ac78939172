"""A loss that is a sum over rows, and gradients that are averaged.

The sum over the batch is N times the average of the local sums. PyTorch's DDP always
averages; so does Horovod unless told otherwise.

Reported: https://github.com/pytorch/pytorch/issues/37359,
https://github.com/Lightning-AI/pytorch-lightning/issues/12407

Symptom: steps are N times too short on N processes, against one.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd

ENTRY = Entry(
    bug="C5",
    title="sums over rows, averaged over processes",
    reported=("pytorch/pytorch#37359", "Lightning-AI/pytorch-lightning#12407"),
    cause="divided-twice",
    engine="horovod",
    mended_by="`op=hvd.Sum`",
)


def loss_of(model, x, y):
    return 0.01 * tf.reduce_sum(row_losses(model, x, y))


def wrong():
    return TapeLoop(loss_of), regression_rows()


def mended():
    return TapeLoop(loss_of, hvd.Sum), regression_rows()

"""Gradient accumulation that forgets to divide by the number of micro-batches.

Each of 3 parts has a mean loss, and their gradients are added: the step is 3 times too
large, on one replica as well as on many.

Reported: https://github.com/huggingface/transformers/issues/37766,
https://github.com/huggingface/accelerate/issues/3533, for Keras by hand:
https://github.com/keras-team/tf-keras/issues/301

Symptom: the best learning rate depends on the accumulation steps. Adam hides it.
"""

import tensorflow as tf
from _common import AccumulatingLoop, regression_rows, row_losses, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="C3",
    title="accumulated gradients not divided by the parts",
    reported=(
        "huggingface/transformers#37766",
        "huggingface/accelerate#3533",
        "keras-team/tf-keras#301",
    ),
    cause="accumulation-not-averaged",
    engine="strategy",
    mended_by="`prepare(model, microbatches=3)`",
)

PARTS = 3


class Summing(AccumulatingLoop):
    """Adds up the gradients of means, and shows the mean of the losses."""

    def reported(self, losses):
        """The mean over the parts."""
        return tf.add_n(losses) / PARTS


def wrong():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Summing(loss_of, PARTS), regression_rows()


def mended():
    model = small_model()
    model.compile(optimizer=sgd(), loss="mse")
    return distloss.prepare(model, microbatches=PARTS), regression_rows()

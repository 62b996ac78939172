"""The sum over a batch of 29 rows is divided by the constant 32.

The custom loops of many guides: right for each full batch, and a short one gets a
shorter step.

Reported: https://github.com/huggingface/transformers/issues/6969,
https://github.com/huggingface/transformers/pull/6998

Symptom: the last step of an epoch is short by the rows that are missing. Some want
that; then it should be said.
"""

import tensorflow as tf
from _common import Loop, regression_rows, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A6",
    title="a short batch divided by the size of a full one",
    reported=("huggingface/transformers#6969", "huggingface/transformers#6998"),
    cause="nominal-batch-size",
    engine="strategy",
    mended_by="`mean_share`, which counts the rows",
)

GLOBAL_BATCH_SIZE = 32


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_sum(row_losses(model, x, y)) / GLOBAL_BATCH_SIZE

    return Loop(loss_of), regression_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of), regression_rows()

"""The sum of the losses of all tokens is divided by the number of rows.

`compute_average_loss` adds up all axes and divides by examples. With 7 tokens in each
row (or height times width pixels) the loss is 7 times the mean, on one replica as well
as on many, so comparing these shows nothing.

Reported: https://github.com/tensorflow/tensorflow/issues/33651,
https://github.com/tensorflow/tensorflow/issues/48743

Symptom: the loss, and with it the best learning rate, depend on the size of a row.
"""

import tensorflow as tf
from _common import ROWS, Loop, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A11",
    title="losses of tokens or pixels divided by rows",
    reported=("tensorflow/tensorflow#33651", "tensorflow/tensorflow#48743"),
    cause="elements-divided-by-rows",
    engine="strategy",
    mended_by="`mean_share`, which counts elements",
)


def wrong():
    def loss_of(model, x, y):
        values = row_losses(model, x, y)  # of each token, [rows, 7]
        return tf.nn.compute_average_loss(values, global_batch_size=ROWS)

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y))

    return Loop(loss_of, token_model()), token_rows()

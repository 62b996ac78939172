"""A replica whose rows have no labels divides 0 by 0.

The last rows are prompts without an answer. On two replicas each has some labels; on
four one has none, its mean is NaN, and the sum over replicas carries it into all
weights.

Reported: https://github.com/pytorch/torchtitan/pull/2314,
https://github.com/pytorch/torchtitan/pull/3111

Symptom: NaN after thousands of steps, on many devices only.
"""

import numpy as np
import tensorflow as tf
from _common import ROWS, Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G14",
    title="the mean over no labels, on one replica of four",
    reported=("pytorch/torchtitan#2314", "pytorch/torchtitan#3111"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, mask)`",
)


def answered_rows():
    """`(tokens, y, is_label)`: the last 9 rows have no labels."""
    tokens, y = token_rows()
    is_label = (tokens > 0) & (np.arange(ROWS) < ROWS - 9)[:, np.newaxis]
    return tokens, y, is_label.astype("float32")


def wrong():
    def loss_of(model, x, y, is_label):
        total = tf.reduce_sum(row_losses(model, x, y) * is_label)
        return total / tf.reduce_sum(is_label) / replica_count()

    return Loop(loss_of, token_model()), answered_rows()


def mended():
    def loss_of(model, x, y, is_label):
        return distloss.mean_share(row_losses(model, x, y), is_label)

    return Loop(loss_of, token_model()), answered_rows()

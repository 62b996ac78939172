"""Losses of texts are divided by the longest one, that of this replica.

The length was meant to be a constant. It is that of the mask, which each replica cuts
to its longest text before the loss.

Reported: https://github.com/verl-project/verl/issues/3741,
https://github.com/verl-project/verl/pull/5366

Symptom: texts that share a replica with a long one train more slowly.
"""

import tensorflow as tf
from _common import Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G18",
    title="losses divided by the longest text of a replica",
    reported=("verl-project/verl#3741", "verl-project/verl#5366"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="a constant length",
)

MAX_LENGTH = 7


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def sums_of_texts(model, x, y):
    return tf.reduce_sum(row_losses(model, x, y) * is_token(x), axis=1)


def wrong():
    def loss_of(model, x, y):
        longest = tf.reduce_max(tf.reduce_sum(is_token(x), axis=1))
        mean = tf.reduce_mean(sums_of_texts(model, x, y)) / longest
        return mean / replica_count()

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(sums_of_texts(model, x, y)) / MAX_LENGTH

    return Loop(loss_of, token_model()), token_rows()

"""Weights of tokens are put where a mask was, and the mask is counted as integers.

A weight below 1 is 0 then. Each replica divides by what is left of its weights, and
replicas are averaged.

Reported: https://github.com/GMISWE/tinker-cloud/pull/65

Symptom: weights of a half do nothing, or make the loss very large.
"""

import numpy as np
import tensorflow as tf
from _common import Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G13",
    title="fractional weights of tokens, counted as integers",
    reported=("GMISWE/tinker-cloud#65",),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, weights)`",
)


def weighted_tokens():
    """`(tokens, y, weight)`: weights of 0.5 to 2.5 where there is a token."""
    tokens, y = token_rows()
    weight = np.random.default_rng(8).uniform(0.5, 2.5, tokens.shape) * (tokens > 0)
    return tokens, y, weight.astype("float32")


def wrong():
    def loss_of(model, x, y, weight):
        count = tf.reduce_sum(tf.cast(weight, tf.int32))
        total = tf.reduce_sum(row_losses(model, x, y) * weight)
        mean = total / tf.cast(tf.maximum(count, 1), tf.float32)
        return mean / replica_count()

    return Loop(loss_of, token_model()), weighted_tokens()


def mended():
    def loss_of(model, x, y, weight):
        return distloss.mean_share(row_losses(model, x, y), weight)

    return Loop(loss_of, token_model()), weighted_tokens()

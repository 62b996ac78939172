"""Each replica takes the mean over its own tokens, then replicas are averaged.

A token on a replica with short rows weighs more: by how many times depends on how rows
are dealt. Masks by hand, in a custom loop.

Reported: https://github.com/huggingface/transformers/issues/34242,
https://github.com/pytorch/torchtitan/issues/1842

Symptom: none to be seen in one run; results depend on the number of replicas.
"""

import tensorflow as tf
from _common import Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="C2",
    title="a token mean per replica, then the mean over replicas",
    reported=("huggingface/transformers#34242", "pytorch/torchtitan#1842"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, mask)`",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def wrong():
    def loss_of(model, x, y):
        total = tf.reduce_sum(row_losses(model, x, y) * is_token(x))
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(is_token(x)))
        return mean / replica_count()

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y), is_token(x))

    return Loop(loss_of, token_model()), token_rows()

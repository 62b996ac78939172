"""The number of tokens is that of all replicas already, and is divided by N again.

One layer counts over all replicas, another takes what it gets for a local mean and
averages it.

Reported: https://github.com/huggingface/transformers/issues/40799,
https://github.com/pytorch/torchtitan/issues/2323

Symptom: steps are N times too short with N replicas. Adam hides it; the norm of the
gradient shows it.
"""

import tensorflow as tf
from _common import Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="C4",
    title="a global count taken for a local one",
    reported=("huggingface/transformers#40799", "pytorch/torchtitan#2323"),
    cause="divided-twice",
    engine="strategy",
    mended_by="`mean_share(losses, mask)`",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def wrong():
    def loss_of(model, x, y):
        context = tf.distribute.get_replica_context()
        tokens = context.all_reduce("SUM", tf.reduce_sum(is_token(x)))
        loss = tf.reduce_sum(row_losses(model, x, y) * is_token(x)) / tokens
        return loss / replica_count()

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y), is_token(x))

    return Loop(loss_of, token_model()), token_rows()

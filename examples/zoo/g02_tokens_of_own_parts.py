"""Tokens are summed over micro-batches, but not over replicas.

A mend of the accumulation: each micro-batch counts by its share of the tokens, those
of this replica. Replicas are averaged, however many tokens they have.

Reported: https://github.com/verl-project/verl/pull/5641 (review: the count must be
reduced over ranks before the first micro-batch)

Symptom: the number of micro-batches no longer matters, that of replicas does.
"""

import tensorflow as tf
from _common import (
    AccumulatingLoop,
    replica_count,
    row_losses,
    token_model,
    token_rows,
)
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G2",
    title="tokens summed over micro-batches, not over replicas",
    reported=("verl-project/verl#5641",),
    cause="mean-of-means",
    engine="strategy",
    mended_by="sum them over replicas, too",
)

PARTS = 2


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def trained(tokens_of_step):
    def loss_of(model, x, y, tokens):
        return tf.reduce_sum(row_losses(model, x, y) * is_token(x)) / tokens

    return AccumulatingLoop(loss_of, PARTS, token_model(), tokens_of_step)


def wrong():
    def tokens_of_step(batch):
        return tf.reduce_sum(is_token(batch[0])) * replica_count()

    return trained(tokens_of_step), token_rows()


def mended():
    def tokens_of_step(batch):
        return distloss.StrategyReplicas().sum(tf.reduce_sum(is_token(batch[0])))

    return trained(tokens_of_step), token_rows()

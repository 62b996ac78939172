"""Tokens are summed over a group of replicas that is too small.

Replicas are pairs of pairs, and the count is reduced within a pair. With two replicas
there is one pair, and all is well.

Reported: https://github.com/verl-project/verl/pull/5993 (the count was reduced over
data-parallel ranks, without those that share a sequence)

Symptom: tests on two devices pass; on four the result depends on how rows are dealt.
"""

import tensorflow as tf
from _common import Loop, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G10",
    title="tokens summed over pairs of replicas",
    reported=("verl-project/verl#5993",),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, mask)`",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def wrong():
    def loss_of(model, x, y):
        mask = is_token(x)
        context = tf.distribute.get_replica_context()
        pairs = max(context.num_replicas_in_sync // 2, 1)
        pair = context.replica_id_in_sync_group // 2
        own = tf.one_hot(pair, pairs) * tf.reduce_sum(mask)
        tokens = context.all_reduce("SUM", own)[pair]
        return tf.reduce_sum(row_losses(model, x, y) * mask) / tokens / pairs

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y), is_token(x))

    return Loop(loss_of, token_model()), token_rows()

"""Two counts are summed over replicas, and one replica asks for them in other order.

Collectives meet in the order in which they are called. Replica 0 counts tokens first,
because it logs them; so its tokens are added to the rows of the others, and its rows to
their tokens. The types match, and nothing fails.

Reported: https://github.com/deepspeedai/DeepSpeed/issues/6714 (an all-to-all with other
arguments on some ranks, which hangs); found by TrainCheck,
https://github.com/OrderLab/TrainCheck

Symptom: logged counts that no data set has; steps of a wrong size.
"""

import tensorflow as tf
from _common import Loop, row_losses, token_model, token_rows
from _entry import Entry

ENTRY = Entry(
    bug="F6",
    title="collectives in another order on one replica",
    reported=("deepspeedai/DeepSpeed#6714",),
    cause="unexplained",
    engine="strategy",
    mended_by="the same order on all replicas",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def trained(counts_tokens_first):
    def tokens_of_all(x):
        context = tf.distribute.get_replica_context()
        rank = tf.get_static_value(context.replica_id_in_sync_group)
        rows = tf.cast(tf.shape(x)[0], tf.float32)
        tokens = tf.reduce_sum(is_token(x))
        if counts_tokens_first(rank):
            all_tokens = context.all_reduce("SUM", tokens)
            context.all_reduce("SUM", rows)
        else:
            context.all_reduce("SUM", rows)
            all_tokens = context.all_reduce("SUM", tokens)
        return all_tokens

    def loss_of(model, x, y):
        total = tf.reduce_sum(row_losses(model, x, y) * is_token(x))
        return total / tokens_of_all(x)

    return Loop(loss_of, token_model())


def wrong():
    return trained(lambda rank: rank == 0), token_rows()


def mended():
    return trained(lambda rank: True), token_rows()

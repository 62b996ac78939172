"""A loss is computed in chunks, to save memory: the mean of the means of chunks.

Each chunk divides by the tokens in it. There is one gradient, so that no accumulation
is to be seen; on more replicas, chunks are other rows.

Reported: https://github.com/linkedin/Liger-Kernel/issues/802,
https://github.com/linkedin/Liger-Kernel/pull/322,
https://github.com/NVIDIA/TransformerEngine/pull/2476 (ignored tokens in a fused loss)

Symptom: the loss depends on the size of a chunk.
"""

import tensorflow as tf
from _common import Loop, in_parts, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G12",
    title="the mean of the token means of chunks",
    reported=(
        "linkedin/Liger-Kernel#802",
        "linkedin/Liger-Kernel#322",
        "NVIDIA/TransformerEngine#2476",
    ),
    cause="not-decomposable",
    engine="strategy",
    mended_by="sums of chunks, divided once",
)

CHUNKS = 3


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def sums_and_counts(model, x, y):
    """Of each chunk of rows."""
    losses, mask = row_losses(model, x, y), is_token(x)
    for chunk, weights in in_parts((losses, mask), CHUNKS):
        yield tf.reduce_sum(chunk * weights), tf.reduce_sum(weights)


def wrong():
    def loss_of(model, x, y):
        chunks = sums_and_counts(model, x, y)
        means = [total / tf.maximum(count, 1) for total, count in chunks]
        return tf.add_n(means) / CHUNKS / replica_count()

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        totals, counts = zip(*sums_and_counts(model, x, y), strict=True)
        tokens = distloss.StrategyReplicas().sum(tf.add_n(counts))
        return tf.add_n(totals) / tokens

    return Loop(loss_of, token_model()), token_rows()

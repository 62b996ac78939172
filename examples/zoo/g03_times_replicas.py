"""A loss divided by the tokens of all, times N, where gradients are summed.

The factor undoes an average over replicas. It came along from a framework that takes
one; here the optimizer sums.

Reported: https://github.com/verl-project/verl/pull/5877 (which divisor is at work has
to be asked, not assumed), https://github.com/meta-pytorch/torchtune/pull/2172

Symptom: steps are N times too large. Adam hides it; clipping sets in sooner.
"""

import tensorflow as tf
from _common import Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G3",
    title="times N, against an average that is not taken",
    reported=("verl-project/verl#5877", "meta-pytorch/torchtune#2172"),
    cause="sum-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, mask)`",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def wrong():
    def loss_of(model, x, y):
        mask = is_token(x)
        tokens = distloss.StrategyReplicas().sum(tf.reduce_sum(mask))
        loss = tf.reduce_sum(row_losses(model, x, y) * mask) / tokens
        return loss * replica_count()

    return Loop(loss_of, token_model()), token_rows()


def mended():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y), is_token(x))

    return Loop(loss_of, token_model()), token_rows()

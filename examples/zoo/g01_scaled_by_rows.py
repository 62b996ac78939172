"""Each micro-batch takes its token mean, and counts by its share of the rows.

A micro-batch of short rows has few tokens and many rows: its tokens weigh more. The
denominators are those of all replicas, so that only the accumulation is wrong.

Reported: https://github.com/verl-project/verl/issues/5625,
https://github.com/verl-project/verl/issues/7321

Symptom: results depend on the size of a micro-batch.
"""

import tensorflow as tf
from _common import AccumulatingLoop, in_parts, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G1",
    title="token means of micro-batches, weighted by their rows",
    reported=("verl-project/verl#5625", "verl-project/verl#7321"),
    cause="accumulation-mean-of-means",
    engine="strategy",
    mended_by="weigh them by their tokens: the tokens of the step as denominator",
)

PARTS = 3


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def sum_of_all(value):
    return distloss.StrategyReplicas().sum(value)


def rows_in(x):
    return tf.cast(tf.shape(x)[0], tf.float32)


def wrong():
    def rows_of_step(batch):
        return sum_of_all(rows_in(batch[0]))

    def loss_of(model, x, y, rows_of_step):
        mean = distloss.mean_share(row_losses(model, x, y), is_token(x))
        return mean * sum_of_all(rows_in(x)) / rows_of_step

    loop = AccumulatingLoop(loss_of, PARTS, token_model(), rows_of_step)
    return loop, token_rows()


def mended():
    def tokens_of_step(batch):
        parts = [tf.reduce_sum(is_token(part[0])) for part in in_parts(batch, PARTS)]
        return sum_of_all(tf.add_n(parts))

    def loss_of(model, x, y, tokens):
        return tf.reduce_sum(row_losses(model, x, y) * is_token(x)) / tokens

    loop = AccumulatingLoop(loss_of, PARTS, token_model(), tokens_of_step)
    return loop, token_rows()

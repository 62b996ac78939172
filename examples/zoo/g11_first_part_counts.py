"""The tokens of the first micro-batch are the denominator of all of them.

The count is taken once, where the accumulation begins, and multiplied by the number of
micro-batches. Long rows come first: each step is too short, by more or less.

Reported: https://github.com/huggingface/trl/pull/6024 (the count of another window than
that which is accumulated), https://github.com/huggingface/transformers/pull/35438

Symptom: the learning rate seems to depend on which rows come first.
"""

import tensorflow as tf
from _common import AccumulatingLoop, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G11",
    title="the tokens of the first micro-batch, for all of them",
    reported=("huggingface/trl#6024", "huggingface/transformers#35438"),
    cause="unexplained",
    engine="strategy",
    mended_by="the tokens of the whole step",
)

PARTS = 3


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def trained(tokens_of_step):
    def loss_of(model, x, y, tokens):
        return tf.reduce_sum(row_losses(model, x, y) * is_token(x)) / tokens

    return AccumulatingLoop(loss_of, PARTS, token_model(), tokens_of_step)


def sum_of_all(tokens):
    return distloss.StrategyReplicas().sum(tf.reduce_sum(is_token(tokens)))


def wrong():
    def tokens_of_step(batch):
        first = batch[0][: tf.shape(batch[0])[0] // PARTS]
        return sum_of_all(first) * PARTS

    return trained(tokens_of_step), token_rows()


def mended():
    return trained(lambda batch: sum_of_all(batch[0])), token_rows()

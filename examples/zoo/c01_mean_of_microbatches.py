"""Gradient accumulation: the mean over tokens of each micro-batch, then their mean.

A token in a micro-batch of short rows weighs more. Each replica cuts its rows into 2
parts here; over replicas the loss of each part is right.

Reported: https://github.com/huggingface/transformers/issues/34191,
https://github.com/huggingface/trl/issues/2175

Symptom: batches of 1 row, accumulated 32 times, train much worse than 32 rows at once.
"""

import tensorflow as tf
from _common import AccumulatingLoop, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="C1",
    title="the mean of the token means of micro-batches",
    reported=("huggingface/transformers#34191", "huggingface/trl#2175"),
    cause="accumulation-mean-of-means",
    engine="strategy",
    mended_by="one number of tokens, that of the whole step",
)

PARTS = 2


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def wrong():
    def loss_of(model, x, y):
        mean = distloss.mean_share(row_losses(model, x, y), is_token(x))
        return mean / PARTS

    return AccumulatingLoop(loss_of, PARTS, token_model()), token_rows()


def mended():
    def tokens_of_step(batch):
        return distloss.StrategyReplicas().sum(tf.reduce_sum(is_token(batch[0])))

    def loss_of(model, x, y, tokens):
        return tf.reduce_sum(row_losses(model, x, y) * is_token(x)) / tokens

    loop = AccumulatingLoop(loss_of, PARTS, token_model(), tokens_of_step)
    return loop, token_rows()

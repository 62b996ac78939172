"""Tokens are counted in float16, one after the other.

A running sum of ones in float16 stays at 2048: 2048 + 1 is 2048. One device has more
tokens than that, each of several replicas has fewer and counts right.

Related: https://github.com/pytorch/torchtitan/issues/2336 (asks what sums over millions
of tokens in half precision come to)

Symptom: beyond some length, one device takes larger steps than many.
"""

import numpy as np
import tensorflow as tf
from _common import ROWS, Loop, dense, keras, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G17",
    title="tokens counted in float16",
    reported=("pytorch/torchtitan#2336",),
    cause="unexplained",
    engine="strategy",
    mended_by="count in float32, or in integers",
)

LENGTH = 128


def long_rows():
    """`(tokens, y)`: 29 rows of up to 128 tokens, 0 is padding."""
    random = np.random.default_rng(9)
    tokens = random.integers(1, 10, size=[ROWS, LENGTH])
    lengths = np.linspace(LENGTH, LENGTH / 2, ROWS).round()
    tokens[np.arange(LENGTH) >= lengths[:, np.newaxis]] = 0
    y = random.normal(size=[ROWS, LENGTH, 1]) + np.linspace(0, 3, ROWS)[:, None, None]
    return tokens.astype("int32"), y.astype("float32")


def long_model():
    start = keras.initializers.RandomUniform(seed=1)
    tokens = keras.Input([LENGTH], dtype="int32")
    embedding = keras.layers.Embedding(10, 4, start)
    return keras.Sequential([tokens, embedding, dense(1)])


def trained(counted):
    def loss_of(model, x, y):
        mask = tf.cast(x > 0, tf.float32)
        tokens = distloss.StrategyReplicas().sum(counted(mask))
        return tf.reduce_sum(row_losses(model, x, y) * mask) / tokens

    return Loop(loss_of, long_model())


def wrong():
    def counted(mask):
        ends = tf.cumsum(tf.reshape(tf.cast(mask, tf.float16), [-1]))
        return tf.cast(tf.pad(ends, [[1, 0]])[-1], tf.float32)  # 0 of no rows

    return trained(counted), long_rows()


def mended():
    return trained(tf.reduce_sum), long_rows()

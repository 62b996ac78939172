"""A loss divides by the tokens of all replicas, and is compiled with `"sum"`.

What the loss returns adds up to the mean, over tokens and over replicas. Keras divides
a loss of `reduction="sum"` by the number of replicas once more.

Reported: https://github.com/pytorch/torchtitan/issues/2318 (one layer counts globally,
another averages still), https://github.com/pytorch/torchtitan/pull/2323

Symptom: the norm of the gradient is 1/N of that of another engine. Adam hides it.
"""

import numpy as np
from _common import keras, sgd, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G19",
    title="a global count, and a loss compiled with a sum, in `fit`",
    reported=("pytorch/torchtitan#2318", "pytorch/torchtitan#2323"),
    cause="divided-twice",
    engine="strategy",
    mended_by="`prepare(model)`",
)

IGNORED = -100.0


class TokenMean(keras.losses.Loss):
    """The mean over the tokens of all replicas, as values that add up to it."""

    def __init__(self):
        super().__init__(name="token_mean", reduction="sum")

    def call(self, y_true, y_pred):
        """The share of each token."""
        is_label = keras.ops.cast(y_true[..., 0] != IGNORED, "float32")
        tokens = distloss.StrategyReplicas().sum(keras.ops.sum(is_label))
        errors = keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)
        return keras.ops.where(is_label > 0, errors, 0.0) / tokens


def labelled_rows():
    """`(tokens, y)`: labels of padding are ignored."""
    tokens, y = token_rows()
    return tokens, np.where(tokens[..., np.newaxis] > 0, y, IGNORED).astype("float32")


def wrong():
    model = token_model()
    model.compile(optimizer=sgd(), loss=TokenMean())
    return model, labelled_rows()


def mended():
    model, batch = wrong()
    return distloss.prepare(model), batch

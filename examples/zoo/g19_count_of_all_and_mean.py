"""A loss divides by the tokens of all replicas, and by the replicas as before.

What the loss returns adds up to the mean, over tokens and over replicas, and is
compiled with a sum. The division by N is left over from a count of each replica.

Reported: https://github.com/pytorch/torchtitan/issues/2318 (one layer counts globally,
another averages still), https://github.com/pytorch/torchtitan/pull/2323

Symptom: the norm of the gradient is 1/N of that of another engine. Adam hides it.
"""

import numpy as np
from _common import keras, replica_count, sgd, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G19",
    title="a global count, divided by N, in `fit`",
    reported=("pytorch/torchtitan#2318", "pytorch/torchtitan#2323"),
    cause="divided-twice",
    engine="strategy",
    mended_by="`prepare(model)`, the labels as weights",
)

IGNORED = -100.0


class TokenMean(keras.losses.Loss):
    """Values that add up to the mean over the tokens of all replicas, divided by N."""

    def __init__(self):
        super().__init__(name="token_mean", reduction="sum")

    def call(self, y_true, y_pred):
        """The share of each token."""
        is_label = keras.ops.cast(y_true[..., 0] != IGNORED, "float32")
        tokens = distloss.StrategyReplicas().sum(keras.ops.sum(is_label))
        errors = keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)
        return keras.ops.where(is_label > 0, errors, 0.0) / tokens / replica_count()


def labelled_rows():
    """`(tokens, y)`: labels of padding are ignored."""
    tokens, y = token_rows()
    return tokens, np.where(tokens[..., np.newaxis] > 0, y, IGNORED).astype("float32")


def wrong():
    model = token_model()
    model.compile(optimizer=sgd(), loss=TokenMean())
    return model, labelled_rows()


def mended():
    model = token_model()
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(optimizer=sgd(), loss=loss)
    tokens, y = labelled_rows()
    return distloss.prepare(model), (tokens, y, (tokens > 0).astype("float32"))

"""Weights of tokens, in `fit`: each replica divides by the weights it holds.

Tokens weigh less the later they come, padding weighs nothing. The loss asks for a mean
by weight, and each replica takes one of its own.

Reported: https://github.com/vllm-project/speculators/pull/798,
https://github.com/vllm-project/speculators/pull/720

Symptom: none to be seen; a token's weight depends on who shares its replica.
"""

import numpy as np
from _common import keras, sgd, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G9",
    title="weights of tokens in `fit`, summed by each replica",
    reported=("vllm-project/speculators#798", "vllm-project/speculators#720"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`prepare(model)`",
)


def decaying_rows():
    """`(tokens, y, sample_weight)`: the weights are of tokens, `[29, 7]`."""
    tokens, y = token_rows()
    weight = 0.7 ** np.arange(7) * (tokens > 0)
    return tokens, y, weight.astype("float32")


def wrong():
    model = token_model()
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(optimizer=sgd(), loss=loss)
    return model, decaying_rows()


def mended():
    model, batch = wrong()
    return distloss.prepare(model), batch

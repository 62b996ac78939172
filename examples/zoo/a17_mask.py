"""Masked tokens: each replica divides by its own unmasked tokens.

A token on a replica with short rows then weighs more. Long rows come first here, as
they do where data is sorted by length.

Reported: https://github.com/tensorflow/tensorflow/issues/26784,
https://github.com/tensorflow/tensorflow/issues/39146,
https://github.com/huggingface/transformers/issues/6968

Symptom: none to be seen; the result depends on how rows are dealt to replicas.
"""

from _common import sgd, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A17",
    title="a mask, `Embedding(mask_zero=True)`, in `fit`",
    reported=(
        "tensorflow/tensorflow#26784",
        "tensorflow/tensorflow#39146",
        "huggingface/transformers#6968",
    ),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`prepare(model)`",
)


def wrong():
    model = token_model(mask_zero=True)
    model.compile(optimizer=sgd(), loss="mse")
    return model, token_rows()


def mended():
    model, batch = wrong()
    return distloss.prepare(model), batch

"""Plain `compile` and `fit`, where the batch does not divide by the replicas.

Each replica takes the mean of its own rows, and Keras the mean of these: a row on a
replica with few rows weighs more than others.

Reported: https://github.com/huggingface/transformers/issues/608,
https://github.com/facebookresearch/fairchem/issues/269,
https://github.com/tensorflow/tensorflow/issues/48875

Symptom: none to be seen; the last batch of each epoch moves the weights elsewhere.
"""

from _common import regression_rows, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A5",
    title="plain `fit` with a batch that splits unevenly",
    reported=(
        "huggingface/transformers#608",
        "facebookresearch/fairchem#269",
        "tensorflow/tensorflow#48875",
    ),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`prepare(model)`",
)


def wrong():
    model = small_model()
    model.compile(optimizer=sgd(), loss="mse")
    return model, regression_rows()


def mended():
    model, batch = wrong()
    return distloss.prepare(model), batch

"""`ignore_class` in `fit`: each replica divides by its own labels.

The class of padding is left out of the loss, and of the number that it is divided by:
the number on this replica.

Reported: https://github.com/huggingface/transformers/issues/34242 (labels of -100, mean
over the others on each device)

Symptom: none to be seen; the result depends on how rows are dealt to replicas.
"""

import numpy as np
from _common import dense, keras, sgd, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G15",
    title="`ignore_class` in `fit`",
    reported=("huggingface/transformers#34242",),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`prepare(model)`",
)

PADDING, CLASSES = 0, 10


def tagged_rows():
    """`(tokens, tags)`: a tag for each token, padding's own for padding."""
    tokens, _ = token_rows()
    tags = np.where(tokens > 0, 1 + (tokens * 5) % (CLASSES - 1), PADDING)
    return tokens, tags.astype("int32")


def wrong():
    start = keras.initializers.RandomUniform(seed=1)
    embedding = keras.layers.Embedding(10, 4, start)
    tokens = keras.Input([7], dtype="int32")
    model = keras.Sequential([tokens, embedding, dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=PADDING
    )
    model.compile(optimizer=sgd(), loss=loss)
    return model, tagged_rows()


def mended():
    model, batch = wrong()
    return distloss.prepare(model), batch

"""`reduction="mean_with_sample_weight"` divides by the weight of this replica's rows.

Heavy rows that share a replica weigh less than they should; where a replica has one
row, its weight cancels out.

Related: https://github.com/pytorch/pytorch/issues/72047 (weighted cross entropy)

Symptom: none to be seen; the result depends on how rows are dealt to replicas.
"""

from _common import keras, sgd, small_model, weighted_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A18",
    title='`reduction="mean_with_sample_weight"` in `fit`',
    reported=("pytorch/pytorch#72047",),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`prepare(model)`",
)


def wrong():
    model = small_model()
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(optimizer=sgd(), loss=loss, weighted_metrics=[])
    return model, weighted_rows()


def mended():
    model, batch = wrong()
    return distloss.prepare(model), batch

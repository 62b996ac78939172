"""Micro-batches of unequal size weigh the same: (g1 + g2 + g3) / 3.

What `gradient_accumulation_steps` of a Keras 3 optimizer computes. It cannot be used
under MirroredStrategy (https://github.com/keras-team/keras/issues/20582), so this is
the same by hand: each replica cuts its rows into 3 parts.

Reported: https://github.com/keras-team/keras/issues/20241

Symptom: with short parts, accumulation gives another step than the whole batch.
"""

from _common import AccumulatingLoop, regression_rows, row_losses, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A15",
    title="micro-batches of unequal size weigh the same",
    reported=("keras-team/keras#20241", "keras-team/keras#20582"),
    cause="accumulation-mean-of-means",
    engine="strategy",
    mended_by="`prepare(model, microbatches=3)`",
)

PARTS = 3


def wrong():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y)) / PARTS

    return AccumulatingLoop(loss_of, PARTS), regression_rows()


def mended():
    model = small_model()
    model.compile(optimizer=sgd(), loss="mse")
    return distloss.prepare(model, microbatches=PARTS), regression_rows()

"""The loss is multiplied by `hvd.size()` to undo an average that is a sum.

Right under `op=hvd.Average` for a share of a sum; with `hvd.Sum` and local means it is
too large by N * N.

Reported: https://github.com/neuralmagic/sparseml/issues/135,
https://github.com/horovod/horovod/issues/1539

Symptom: training diverges on several processes.
"""

import tensorflow as tf
from _common import regression_rows, row_losses
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="B1",
    title="a loss times `hvd.size()`, with `op=hvd.Sum`",
    reported=("neuralmagic/sparseml#135", "horovod/horovod#1539"),
    cause="scaled-n-squared",
    engine="horovod",
    mended_by="rows of all processes, without the factor",
)


def wrong():
    def loss_of(model, x, y):
        return tf.reduce_mean(row_losses(model, x, y)) * hvd.size()

    return TapeLoop(loss_of, hvd.Sum), regression_rows()


def mended():
    def loss_of(model, x, y):
        return share_of_rows(row_losses(model, x, y))

    return TapeLoop(loss_of, hvd.Sum), regression_rows()

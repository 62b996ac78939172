"""Nobody broadcasts the weights: each process starts from random ones of its own.

Horovod makes gradients the same everywhere, not weights. What starts apart stays apart:
gradients of different models are averaged, and belong to none of them.

One update does not show it where all processes are given the same weights first, which
is what a comparison with one device begins with.

Reported: https://github.com/horovod/horovod/issues/672,
https://github.com/horovod/horovod/issues/332

Symptom: checkpoints of several processes differ; that of process 0 predicts badly.
"""

from _common import keras, regression_rows, row_losses, small_model
from _entry import Entry
from _horovod import TapeLoop, hvd, share_of_rows

ENTRY = Entry(
    bug="D1",
    title="weights that nobody broadcasts",
    reported=("horovod/horovod#672", "horovod/horovod#332"),
    cause="cannot-tell",
    engine="horovod",
    mended_by="`hvd.broadcast_variables` before the first step",
)


def of_this_process():
    """A model whose weights depend on the rank, as with a random seed they do."""
    hvd.init()
    model = small_model()
    random = keras.random.SeedGenerator(hvd.rank())
    for variable in model.trainable_variables:
        variable.assign(0.5 * keras.random.normal(variable.shape, seed=random))
    return model


def loss_of(model, x, y):
    return share_of_rows(row_losses(model, x, y))


def wrong():
    return TapeLoop(loss_of, hvd.Sum, of_this_process()), regression_rows()


def mended():
    model = of_this_process()
    hvd.broadcast_variables([v.value for v in model.variables], root_rank=0)
    return TapeLoop(loss_of, hvd.Sum, model), regression_rows()

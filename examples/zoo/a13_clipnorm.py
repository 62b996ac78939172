"""`global_clipnorm` of a Keras 3 optimizer clips on each replica, then adds up.

tf-keras added up first. Clipping is not linear: the sum of clipped parts is not the
clipped sum, and may be longer than the limit.

No issue found for Keras 3. Related: https://github.com/tensorflow/tensorflow/issues/33929
(clipping was refused under strategies for that reason)

Symptom: the clip limit seems to grow with the number of replicas.
"""

from _common import regression_rows, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A13",
    title="`global_clipnorm` of Keras 3",
    reported=("tensorflow/tensorflow#33929",),
    cause="clip-before-sum",
    engine="strategy",
    mended_by="`DistributedOptimizer`",
)


def compiled(optimizer):
    model = small_model()
    model.compile(optimizer=optimizer, loss=distloss.DistributedLoss("mse"))
    return model


def wrong():
    return compiled(sgd(global_clipnorm=0.5)), regression_rows()


def mended():
    optimizer = distloss.DistributedOptimizer(sgd(global_clipnorm=0.5))
    return compiled(optimizer), regression_rows()

"""`LossScaleOptimizer` looks for overflow on replica 0, before the sum.

Its comment says that the gradients are summed already; in Keras 3 they are not. Inf on
another replica alone passes by, and the sum carries it into all weights.

No issue found; the source:
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/optimizers/loss_scale_optimizer.py.
Near it: https://github.com/keras-team/keras/issues/18666

Symptom: float16 training on several GPUs ends in NaN where one GPU skips the step.
The scaling alone decides it, so the model here is float32.
"""

from _common import keras, regression_rows, sgd, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A16",
    title="overflow on one replica, with `LossScaleOptimizer`",
    reported=("keras-team/keras#18666",),
    cause="overflow-not-agreed",
    engine="strategy",
    mended_by="`DistributedOptimizer`",
)


def compiled(optimizer):
    model = small_model()
    model.compile(optimizer=optimizer, loss=distloss.DistributedLoss("mse"))
    return model


def wrong():
    return compiled(keras.optimizers.LossScaleOptimizer(sgd())), regression_rows()


def mended():
    scaled = keras.optimizers.LossScaleOptimizer(sgd())
    return compiled(distloss.DistributedOptimizer(scaled)), regression_rows()

"""A model overrides `compute_loss` as the documentation of Keras 3 shows it.

`ops.mean(...)` plus `ops.sum(self.losses)`: neither passes by the place where Keras
divides by the number of replicas.

No issue found; the example is in
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/trainers/trainer.py, the
scaling came with https://github.com/keras-team/keras/pull/20609

Symptom: steps and the printed loss are N times too large with N replicas.
"""

from _common import dense, keras, regression_rows, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A4",
    title="`compute_loss` overridden with a mean",
    reported=("keras-team/keras#20609",),
    cause="sum-of-means",
    engine="strategy",
    mended_by="`DistributedLoss` and `regularization_share` in it",
)


class Plain(keras.Model):
    """The example of `Trainer.compute_loss`."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """The loss of this replica's rows, and the penalty."""
        return keras.ops.mean((y_pred - y) ** 2) + keras.ops.sum(self.losses)


class Mended(keras.Model):
    """The same, as shares that add up over replicas."""

    mean_squared_error = distloss.DistributedLoss("mse")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """This replica's share of both."""
        penalty = distloss.regularization_share(self.losses)
        return self.mean_squared_error(y, y_pred) + penalty


def compiled(model_class):
    x = keras.Input([3])
    hidden = dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.01))(x)
    model = model_class(x, dense(1)(hidden))
    model.compile(optimizer=sgd())
    return model


def wrong():
    return compiled(Plain), regression_rows()


def mended():
    return compiled(Mended), regression_rows()

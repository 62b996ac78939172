"""The penalty on the weights is added whole on each replica.

It is the same number everywhere, so N replicas that add their gradients count it N
times. The loss of the rows is right here.

Reported: https://github.com/tensorflow/models/issues/6195,
https://github.com/tensorflow/tensorflow/issues/48875

Symptom: weight decay grows with the number of GPUs.
"""

import tensorflow as tf
from _common import Loop, keras, regression_rows, row_losses, small_model
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A3",
    title="a regulariser counted by each replica",
    reported=("tensorflow/models#6195", "tensorflow/tensorflow#48875"),
    cause="regularization-not-scaled",
    engine="strategy",
    mended_by="`regularization_share(model.losses)`",
)


def regularized_model():
    return small_model(kernel_regularizer=keras.regularizers.L2(0.1))


def wrong():
    def loss_of(model, x, y):
        return distloss.mean_share(row_losses(model, x, y)) + tf.add_n(model.losses)

    return Loop(loss_of, regularized_model()), regression_rows()


def mended():
    def loss_of(model, x, y):
        mean = distloss.mean_share(row_losses(model, x, y))
        return mean + distloss.regularization_share(model.losses)

    return Loop(loss_of, regularized_model()), regression_rows()

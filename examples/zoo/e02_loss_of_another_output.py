"""A model got a second output, and the loss is taken of the wrong one.

The hidden layer is the first output now. Its 4 numbers broadcast against the one label,
so nothing fails; the layer that predicts gets no gradient.

Reported: https://github.com/tensorflow/tensorflow/issues/37887 (there Keras itself took
the first output, with a loss given for the second by name; Keras 3 does not)

Symptom: "the network is not trained at all"; the loss falls a little, accuracy stays.
"""

from _common import dense, keras, regression_rows, sgd
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="E2",
    title="the loss of another output: the last layer gets no gradient",
    reported=("tensorflow/tensorflow#37887",),
    cause="no-update",
    engine="strategy",
    mended_by="the output that predicts",
)


class TwoOutputs(keras.Model):
    """A model whose `compute_loss` takes one of its outputs."""

    mean_squared_error = distloss.DistributedLoss("mse")

    def __init__(self, trained_output, **arguments):
        super().__init__(**arguments)
        self.trained_output = trained_output

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """The loss of one output."""
        return self.mean_squared_error(y, y_pred[self.trained_output])


def compiled(trained_output):
    x = keras.Input([3])
    hidden = dense(4, "tanh")(x)
    model = TwoOutputs(trained_output, inputs=x, outputs=[hidden, dense(1)(hidden)])
    model.compile(optimizer=sgd())
    return model


def wrong():
    return compiled(0), regression_rows()


def mended():
    return compiled(1), regression_rows()

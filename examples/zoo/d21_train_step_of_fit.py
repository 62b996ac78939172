"""`train_step` of a Keras model with Horovod's tape and the compiled loss.

`compute_loss` is a mean over the rows of this process, the tape averages over
processes: right while all have as many rows, which the last batch has not.

Asked: https://github.com/horovod/horovod/issues/2893 ("the loss seems wrong"),
https://github.com/horovod/horovod/issues/1060

Symptom: none to be seen; the last batch of each epoch moves the weights elsewhere.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, sgd
from _entry import Entry
from _horovod import hvd

import distloss

ENTRY = Entry(
    bug="D21",
    title="`compute_loss` and Horovod's tape in `train_step`",
    reported=("horovod/horovod#2893", "horovod/horovod#1060"),
    cause="mean-of-means",
    engine="horovod",
    mended_by="`DistributedLoss`, and `op=hvd.Sum`",
)


class Net(keras.Model):
    """Trained by `fit`, with a tape of Horovod."""

    def __init__(self, op, **arguments):
        super().__init__(**arguments)
        self.op = op

    def train_step(self, data):
        """One update from the rows of this process."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        tape = hvd.DistributedGradientTape(tape, op=self.op)
        values = [variable.value for variable in self.trainable_variables]
        gradients = tape.gradient(loss, values)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        return {"loss": loss}


def compiled(op, loss):
    x = keras.Input([3])
    model = Net(op, inputs=x, outputs=dense(1)(dense(4, "tanh")(x)))
    model.compile(optimizer=sgd(momentum=0.5), loss=loss)
    return model


def wrong():
    hvd.init()
    return compiled(hvd.Average, keras.losses.MeanAbsoluteError()), regression_rows()


def mended():
    hvd.init()
    loss = distloss.DistributedLoss("mae", replicas=distloss.HorovodReplicas())
    return compiled(hvd.Sum, loss), regression_rows()

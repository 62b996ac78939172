"""A share is summed over processes inside the tape, and its gradients after it.

A loss is made that is the same everywhere, to have it printed; the gradient of
`hvd.allreduce` then sums over processes already, and `DistributedGradientTape` again.

Reported: https://github.com/horovod/horovod/issues/2654,
https://github.com/horovod/horovod/issues/482

Symptom: steps are N times too large on N processes; the printed loss is right.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, sgd
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D7",
    title="summed inside the tape, and by the tape",
    reported=("horovod/horovod#2654", "horovod/horovod#482"),
    cause="sum-of-means",
    engine="horovod",
    mended_by="the sum for the log outside the tape",
)


class Net(keras.Model):
    """A model whose step differentiates what `differentiated` makes of a share."""

    def __init__(self, differentiated, **arguments):
        super().__init__(**arguments)
        self.differentiated = differentiated

    def train_step(self, data):
        """One update from the rows of this process."""
        x, y = data
        with tf.GradientTape() as tape:
            huber = keras.losses.huber(y, self(x, training=True))
            loss = self.differentiated(share_of_rows(huber))
        tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
        variables = [variable.value for variable in self.trainable_variables]
        self.optimizer.apply(tape.gradient(loss, variables), self.trainable_variables)
        return {"loss": loss}


def net(differentiated):
    hvd.init()
    x = keras.Input([3])
    model = Net(differentiated, inputs=x, outputs=dense(1)(dense(4, "tanh")(x)))
    model.compile(optimizer=sgd())
    return model


def wrong():
    def everywhere(share):
        return hvd.allreduce(share, op=hvd.Sum)

    return net(everywhere), regression_rows()


def mended():
    def everywhere(share):
        total = hvd.allreduce(tf.stop_gradient(share), op=hvd.Sum)
        return share + tf.stop_gradient(total - share)

    return net(everywhere), regression_rows()

"""A layer of one's own normalizes by the rows that it gets, those of one process.

The same as batch normalization, without its name: `tf.nn.moments` over axis 0. It was
asked for batch renormalization, which needs the statistics in training, too.

Reported: https://github.com/horovod/horovod/issues/49,
https://github.com/horovod/horovod/issues/1512

Symptom: the model of N processes is another one than that of one.
"""

import tensorflow as tf
from _common import dense, keras, regression_rows, sgd
from _entry import Entry
from _horovod import hvd, share_of_rows

ENTRY = Entry(
    bug="D4",
    title="moments of local rows in a layer of one's own",
    reported=("horovod/horovod#49", "horovod/horovod#1512"),
    cause="not-decomposable",
    engine="horovod",
    mended_by="moments of all processes",
)


class Whitened(keras.layers.Layer):
    """Mean 0 and variance 1 over rows, as `moments` has them."""

    def __init__(self, moments):
        super().__init__()
        self.moments = moments

    def call(self, x):
        """`x`, normalized."""
        mean, variance = self.moments(x)
        return (x - mean) / tf.sqrt(variance + 1e-3)


class Net(keras.Model):
    """Trained by `fit`, with Horovod in its step."""

    def train_step(self, data):
        """One update from the rows of this process."""
        x, y = data
        with tf.GradientTape() as tape:
            errors = keras.losses.mean_squared_error(y, self(x, training=True))
            share = share_of_rows(errors)
        tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
        values = [variable.value for variable in self.trainable_variables]
        gradients = tape.gradient(share, values)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": hvd.allreduce(share, op=hvd.Sum)}


def net(moments):
    hvd.init()
    x = keras.Input([3])
    y = dense(1)(Whitened(moments)(dense(4, "tanh")(x)))
    model = Net(inputs=x, outputs=y)
    model.compile(optimizer=sgd())
    return model


def wrong():
    def moments(x):
        return tf.nn.moments(x, axes=[0])

    return net(moments), regression_rows()


def mended():
    def mean(x):
        rows = hvd.allreduce(tf.cast(tf.shape(x)[0], x.dtype), op=hvd.Sum)
        return hvd.allreduce(tf.reduce_sum(x, axis=0), op=hvd.Sum) / rows

    def moments(x):
        center = mean(x)
        return center, mean((x - center) ** 2)

    return net(moments), regression_rows()

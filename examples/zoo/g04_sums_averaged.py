"""A sum of token losses, its count thrown away, averaged over replicas.

The count of tokens is returned beside the sum, for a backend that divides by it. This
one takes only the sum, and averages over replicas: N replicas make 1/N of a step.

Reported: https://github.com/radixark/miles/pull/3231

Symptom: the learning rate seems to change with the tokens of a step, and with N.
"""

import tensorflow as tf
from _common import dense, keras, replica_count, sgd, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G4",
    title="sums of token losses, averaged over replicas",
    reported=("radixark/miles#3231",),
    cause="divided-twice",
    engine="strategy",
    mended_by="divide by the tokens of all: `mean_share(losses, mask)`",
)


class TokenModel(keras.Model):
    """A model with a step of its own."""

    def __init__(self, loss_of, **arguments):
        super().__init__(**arguments)
        self.loss_of = loss_of

    def train_step(self, data):
        """One update from this replica's rows."""
        tokens, y = data
        mask = tf.cast(tokens > 0, tf.float32)
        with tf.GradientTape() as tape:
            losses = keras.losses.mean_squared_error(y, self(tokens, training=True))
            loss = self.loss_of(losses, mask)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss * replica_count()}


def compiled(loss_of):
    start = keras.initializers.RandomUniform(seed=1)
    tokens = keras.Input([7], dtype="int32")
    output = dense(1)(keras.layers.Embedding(10, 4, start)(tokens))
    model = TokenModel(loss_of, inputs=tokens, outputs=output)
    model.compile(optimizer=sgd())
    return model


def wrong():
    def sum_and_count(losses, mask):
        return tf.reduce_sum(losses * mask), tf.reduce_sum(mask)

    def loss_of(losses, mask):
        total, _ = sum_and_count(losses, mask)
        return total / replica_count()

    return compiled(loss_of), token_rows()


def mended():
    return compiled(distloss.mean_share), token_rows()

"""A `train_step` cuts its batch, and averages the token means of the parts.

Tokens of a part with short answers weigh more, on one device as on many. Written for
`fit`; the rows of all replicas count in each part.

Reported: https://github.com/modelscope/ms-swift/pull/10165,
https://github.com/modelscope/ms-swift/issues/10076

Symptom: the direction of the gradient depends on how a batch is cut.
"""

import tensorflow as tf
from _common import dense, in_parts, keras, replica_count, sgd, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G5",
    title="a `train_step` that averages the token means of its parts",
    reported=("modelscope/ms-swift#10165", "modelscope/ms-swift#10076"),
    cause="accumulation-mean-of-means",
    engine="strategy",
    mended_by="`prepare(model, microbatches=2)`, the mask as weights",
)

PARTS = 2


class InParts(keras.Model):
    """A model that takes the gradients of parts of its batch."""

    def train_step(self, data):
        """One update from this replica's rows."""
        sums = [tf.zeros(v.shape) for v in self.trainable_variables]
        shown = 0.0
        for tokens, y, mask in in_parts(data, PARTS):
            with tf.GradientTape() as tape:
                losses = keras.losses.mean_squared_error(y, self(tokens, training=True))
                loss = distloss.mean_share(losses, mask) / PARTS
            gradients = tape.gradient(loss, self.trainable_variables)
            sums = [tf.add(s, g) for s, g in zip(sums, gradients, strict=True)]
            shown += loss
        self.optimizer.apply(sums, self.trainable_variables)
        return {"loss": shown * replica_count()}


def masked_rows():
    """`(tokens, y, mask)`: the mask is 1 where there is a token."""
    tokens, y = token_rows()
    return tokens, y, (tokens > 0).astype("float32")


def compiled(model_class, **arguments):
    start = keras.initializers.RandomUniform(seed=1)
    tokens = keras.Input([7], dtype="int32")
    output = dense(1)(keras.layers.Embedding(10, 4, start)(tokens))
    model = model_class(tokens, output)
    model.compile(optimizer=sgd(), **arguments)
    return model


def wrong():
    return compiled(InParts), masked_rows()


def mended():
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = compiled(keras.Model, loss=loss)
    return distloss.prepare(model, microbatches=PARTS), masked_rows()

"""Next tokens are predicted, and labels are counted before they are shifted.

The first token of a row is nobody's next token. It counts all the same, in the rows of
each replica; replicas with many short rows divide by too much, and are averaged.

Reported: https://github.com/modelscope/ms-swift/pull/9167,
https://github.com/huggingface/transformers/issues/46204

Symptom: none to be seen; short answers train more slowly than they should.
"""

import numpy as np
import tensorflow as tf
from _common import Loop, dense, keras, replica_count, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G6",
    title="labels counted before the shift, by each replica",
    reported=("modelscope/ms-swift#9167", "huggingface/transformers#46204"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, mask)`, both after the shift",
)

IGNORED = -100


def texts():
    """`(tokens, labels)`: padding is ignored; long texts come first."""
    tokens, _ = token_rows()
    return tokens, np.where(tokens > 0, tokens, IGNORED).astype("int32")


def language_model():
    start = keras.initializers.RandomUniform(seed=1)
    embedding = keras.layers.Embedding(10, 4, start)
    return keras.Sequential([keras.Input([7], dtype="int32"), embedding, dense(10)])


def next_token_losses(model, tokens, labels):
    """The loss of each token but the first, and whether it has one."""
    following = labels[:, 1:]
    is_label = tf.cast(following != IGNORED, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(following, 0), model(tokens)[:, :-1]
    )
    return losses, is_label


def wrong():
    def loss_of(model, tokens, labels):
        count = tf.reduce_sum(tf.cast(labels != IGNORED, tf.float32))
        losses, is_label = next_token_losses(model, tokens, labels)
        return tf.reduce_sum(losses * is_label) / count / replica_count()

    return Loop(loss_of, language_model()), texts()


def mended():
    def loss_of(model, tokens, labels):
        return distloss.mean_share(*next_token_losses(model, tokens, labels))

    return Loop(loss_of, language_model()), texts()

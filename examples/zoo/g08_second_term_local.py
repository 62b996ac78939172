"""Of two terms one is divided by the tokens of all, the other by local ones.

The main loss was mended. The head that says how sure the model is kept its own mean
over the tokens of a replica.

Reported: https://github.com/vllm-project/speculators/pull/942 (review), and in the same
way https://github.com/NVIDIA/Megatron-LM/issues/7452

Symptom: the balance of the two terms depends on how rows are dealt.
"""

import tensorflow as tf
from _common import Loop, dense, keras, replica_count, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G8",
    title="a second term with a denominator of each replica",
    reported=("vllm-project/speculators#942", "NVIDIA/Megatron-LM#7452"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share` for both terms",
)


def is_token(tokens):
    return tf.cast(tokens > 0, tf.float32)


def two_heads():
    start = keras.initializers.RandomUniform(seed=1)
    tokens = keras.Input([7], dtype="int32")
    hidden = keras.layers.Embedding(10, 4, start)(tokens)
    confidence = dense(2)(hidden)[..., 0]
    return keras.Model(tokens, [dense(1)(hidden), confidence])


def both_losses(model, tokens, y):
    """The losses of tokens of each head: of the value, and of being near it."""
    value, confidence = model(tokens, training=True)
    losses = keras.losses.mean_squared_error(y, value)
    is_near = tf.cast(tf.stop_gradient(losses) < 1, tf.float32)
    return losses, tf.nn.sigmoid_cross_entropy_with_logits(is_near, confidence)


def wrong():
    def loss_of(model, tokens, y):
        mask = is_token(tokens)
        losses, confidence_losses = both_losses(model, tokens, y)
        confidence = tf.reduce_sum(confidence_losses * mask) / tf.reduce_sum(mask)
        return distloss.mean_share(losses, mask) + confidence / replica_count()

    return Loop(loss_of, two_heads()), token_rows()


def mended():
    def loss_of(model, tokens, y):
        mask = is_token(tokens)
        losses, confidence_losses = both_losses(model, tokens, y)
        confidence = distloss.mean_share(confidence_losses, mask)
        return distloss.mean_share(losses, mask) + confidence

    return Loop(loss_of, two_heads()), token_rows()

"""Several texts share a row; a replica takes the mean over the texts that it holds.

Rows are as many on each replica, texts are not: rows of short texts hold more. The
loss of a text is the mean over its tokens.

Reported: https://github.com/modelscope/ms-swift/issues/10076,
https://github.com/NVIDIA-NeMo/Speech/issues/8343

Symptom: with packing, results depend on the number of replicas.
"""

import numpy as np
import tensorflow as tf
from _common import ROWS, Loop, replica_count, row_losses, token_model, token_rows
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="G16",
    title="packed rows: the mean over the texts of a replica",
    reported=("modelscope/ms-swift#10076", "NVIDIA-NeMo/Speech#8343"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(means_of_texts, is_text)`",
)

TEXTS = 3


def packed_rows():
    """`(tokens, y, text)`: which text of its row a token is of, 0 for none.

    The first rows hold one text each, the last ones 3.
    """
    tokens, y = token_rows()
    tokens = np.where(tokens > 0, tokens, 1 + np.arange(7) % 9).astype("int32")
    count = np.linspace(1, TEXTS, ROWS).round()[:, np.newaxis]
    text = 1 + np.floor(np.arange(7) / 7 * count)
    text[::4, 6:] = 0
    return tokens, y, text.astype("int32")


def means_of_texts(losses, text):
    """The mean of each text of each row, `[rows, TEXTS]`, and whether it is one."""
    of_text = tf.one_hot(text - 1, TEXTS)
    counts = tf.reduce_sum(of_text, axis=1)
    sums = tf.einsum("rt,rtk->rk", losses, of_text)
    return tf.math.divide_no_nan(sums, counts), tf.cast(counts > 0, tf.float32)


def wrong():
    def loss_of(model, x, y, text):
        means, is_text = means_of_texts(row_losses(model, x, y), text)
        return tf.reduce_sum(means) / tf.reduce_sum(is_text) / replica_count()

    return Loop(loss_of, token_model()), packed_rows()


def mended():
    def loss_of(model, x, y, text):
        means, is_text = means_of_texts(row_losses(model, x, y), text)
        return distloss.mean_share(means, is_text)

    return Loop(loss_of, token_model()), packed_rows()

"""A contrastive loss: each row is compared with the other rows of its replica.

On one device these are all rows of the batch. With N replicas there are N times fewer
negatives, another and easier task.

Reported: https://github.com/tensorflow/similarity/issues/258,
https://github.com/tensorflow/recommenders/issues/561

Symptom: a lower loss and worse retrieval the more replicas there are.
"""

import numpy as np
import tensorflow as tf
from _common import ROWS, Loop, dense, keras
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A22",
    title="in-batch negatives of one replica only",
    reported=("tensorflow/similarity#258", "tensorflow/recommenders#561"),
    cause="not-decomposable",
    engine="strategy",
    mended_by="gather the keys of all replicas, then `mean_share`",
)


def pairs_of_views():
    """`(x, y)`: two views of each row, both `[29, 3]`."""
    random = np.random.default_rng(5)
    x = random.normal(size=[ROWS, 3]) * np.linspace(0.5, 2, ROWS)[:, np.newaxis]
    y = x + 0.3 * random.normal(size=[ROWS, 3])
    return x.astype("float32"), y.astype("float32")


def encoder():
    return keras.Sequential([keras.Input([3]), dense(4)])


def row_loss(queries, keys, own):
    """How hard it is to find the key of each query, whose index is `own`."""
    logits = tf.matmul(queries, keys, transpose_b=True)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(own, logits)


def wrong():
    def loss_of(model, x, y):
        values = row_loss(model(x), model(y), tf.range(tf.shape(x)[0]))
        return distloss.mean_share(values)

    return Loop(loss_of, encoder()), pairs_of_views()


def mended():
    def loss_of(model, x, y):
        context = tf.distribute.get_replica_context()
        rows = tf.shape(x)[0]
        all_rows = context.all_gather(rows[tf.newaxis], axis=0)
        before = tf.cumsum(all_rows, exclusive=True)
        own = tf.range(rows) + before[context.replica_id_in_sync_group]
        # The gradient of a gather adds up what all replicas want of our keys.
        keys = context.all_gather(model(y), axis=0)
        return distloss.mean_share(row_loss(model(x), keys, own))

    return Loop(loss_of, encoder()), pairs_of_views()

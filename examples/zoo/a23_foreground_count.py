"""A detection loss over all anchors, divided by the positive ones of this replica.

A replica whose images hold one object divides by 1, a crowded one by many.

Reported: https://github.com/tianzhi0549/FCOS/issues/228,
https://github.com/fizyr/keras-retinanet/issues/339

Symptom: none to be seen; the result depends on how images are dealt to replicas.
"""

import numpy as np
import tensorflow as tf
from _common import Loop, dense, keras, replica_count
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="A23",
    title="a loss divided by local positives",
    reported=("tianzhi0549/FCOS#228", "fizyr/keras-retinanet#339"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="positives of all replicas: `StrategyReplicas().sum`",
)

ROWS, ANCHORS = 29, 8


def images():
    """`(x, y)`: crowded images first, then some with one object or none."""
    random = np.random.default_rng(5)
    share = np.linspace(0.9, 0.02, ROWS)[:, np.newaxis]
    y = random.uniform(size=[ROWS, ANCHORS]) < share
    x = random.normal(size=[ROWS, 3]) + share
    return x.astype("float32"), y.astype("float32")


def detector():
    return keras.Sequential([keras.Input([3]), dense(ANCHORS)])


def total_and_positives(model, x, y):
    losses = tf.nn.sigmoid_cross_entropy_with_logits(y, model(x))
    return tf.reduce_sum(losses), tf.reduce_sum(y)


def wrong():
    def loss_of(model, x, y):
        total, positives = total_and_positives(model, x, y)
        return total / tf.maximum(positives, 1) / replica_count()

    return Loop(loss_of, detector()), images()


def mended():
    replicas = distloss.StrategyReplicas()

    def loss_of(model, x, y):
        total, positives = total_and_positives(model, x, y)
        return total / tf.maximum(replicas.sum(positives), 1)

    return Loop(loss_of, detector()), images()

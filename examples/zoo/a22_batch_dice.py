"""The Dice loss of a batch: a ratio of sums over all its pixels.

Replicas that hold more or less foreground have other ratios, and their mean is not the
ratio of the whole batch, not even where the split is even.

Reported: https://github.com/BloodAxe/pytorch-toolbelt/issues/99

Symptom: training depends on the number of replicas, with no factor to be found.
"""

import numpy as np
import tensorflow as tf
from _common import Loop, dense, keras, replica_count
from _entry import Entry

ENTRY = Entry(
    bug="A22",
    title="the Dice loss of a whole batch",
    reported=("BloodAxe/pytorch-toolbelt#99",),
    cause="not-decomposable",
    engine="strategy",
    mended_by="sums over replicas in the value, local ones in the gradient",
)

ROWS, PIXELS = 29, 6


def foreground_rows():
    """`(x, y)`: from 2 % of foreground in the first row to 90 % in the last."""
    random = np.random.default_rng(5)
    share = np.linspace(0.02, 0.9, ROWS)[:, np.newaxis]
    y = random.uniform(size=[ROWS, PIXELS]) < share
    x = random.normal(size=[ROWS, 3]) + 2 * share
    return x.astype("float32"), y.astype("float32")


def model():
    return keras.Sequential([keras.Input([3]), dense(PIXELS, "sigmoid")])


def dice(common, foreground, predicted):
    return 1 - 2 * common / (foreground + predicted)


def sums_of(model, x, y):
    y_pred = model(x)
    return [tf.reduce_sum(values) for values in (y * y_pred, y, y_pred)]


def wrong():
    def loss_of(model, x, y):
        return dice(*sums_of(model, x, y)) / replica_count()

    return Loop(loss_of, model()), foreground_rows()


def mended():
    def loss_of(model, x, y):
        local = sums_of(model, x, y)
        context = tf.distribute.get_replica_context()
        whole = context.all_reduce("SUM", [tf.stop_gradient(s) for s in local])
        # The value is that of all replicas, the gradient that of our rows.
        sums = [s + tf.stop_gradient(w - s) for s, w in zip(local, whole, strict=True)]
        loss = dice(*sums)
        # What is returned adds up over replicas; the gradient does so already.
        return loss - tf.stop_gradient(loss) * (1 - 1 / replica_count())

    return Loop(loss_of, model()), foreground_rows()

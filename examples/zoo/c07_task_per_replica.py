"""Two heads, one task per row: each replica takes the mean over its rows of a task.

A replica without rows of one task adds 0 for it, and the mean over replicas counts it
all the same: with tasks sorted by replica each head gets a fraction of its step.

Reported: https://github.com/pytorch/pytorch/issues/41101,
https://github.com/pytorch/pytorch/issues/28294

Symptom: heads of rare tasks train slowly on many replicas.
"""

import numpy as np
import tensorflow as tf
from _common import ROWS, Loop, dense, keras, regression_rows, replica_count
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="C7",
    title="a head whose rows are on some replicas only",
    reported=("pytorch/pytorch#41101", "pytorch/pytorch#28294"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, is_of_task)` for each head",
)


def rows_of_two_tasks():
    """`(x, y, is_of_task)`: rows of task 0 come first; the last is `[29, 2]`."""
    is_of_task = np.zeros([ROWS, 2], "float32")
    is_of_task[:10, 0] = is_of_task[10:, 1] = 1
    return *regression_rows(), is_of_task


def two_heads():
    return keras.Sequential([keras.Input([3]), dense(4, "tanh"), dense(2)])


def wrong():
    def loss_of(model, x, y, is_of_task):
        totals = tf.reduce_sum((model(x) - y) ** 2 * is_of_task, axis=0)
        rows = tf.reduce_sum(is_of_task, axis=0)
        means = tf.math.divide_no_nan(totals, rows)
        return tf.reduce_sum(means) / replica_count()

    return Loop(loss_of, two_heads()), rows_of_two_tasks()


def mended():
    def loss_of(model, x, y, is_of_task):
        losses = (model(x) - y) ** 2
        heads = zip(
            tf.unstack(losses, axis=1), tf.unstack(is_of_task, axis=1), strict=True
        )
        return sum(distloss.mean_share(*head) for head in heads)

    return Loop(loss_of, two_heads()), rows_of_two_tasks()

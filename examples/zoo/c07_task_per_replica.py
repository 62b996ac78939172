"""A task of few rows: each replica takes the mean over its own rows of the task.

A replica without such rows adds 0, and the mean over replicas counts it all the same:
where rows are sorted by task, the head of a task gets a fraction of its step.

Reported: https://github.com/pytorch/pytorch/issues/41101,
https://github.com/pytorch/pytorch/issues/28294

Symptom: heads of rare tasks train slowly on many replicas.
"""

import numpy as np
import tensorflow as tf
from _common import ROWS, Loop, regression_rows, replica_count, row_losses
from _entry import Entry

import distloss

ENTRY = Entry(
    bug="C7",
    title="a head whose rows are on some replicas only",
    reported=("pytorch/pytorch#41101", "pytorch/pytorch#28294"),
    cause="mean-of-means",
    engine="strategy",
    mended_by="`mean_share(losses, is_of_task)`",
)


def rows_of_a_task():
    """`(x, y, is_of_task)`: the first rows are, and some of those in the middle."""
    is_of_task = np.zeros(ROWS, "float32")
    is_of_task[:10] = is_of_task[14:17] = 1
    return *regression_rows(), is_of_task


def wrong():
    def loss_of(model, x, y, is_of_task):
        total = tf.reduce_sum(row_losses(model, x, y) * is_of_task)
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(is_of_task))
        return mean / replica_count()

    return Loop(loss_of), rows_of_a_task()


def mended():
    def loss_of(model, x, y, is_of_task):
        return distloss.mean_share(row_losses(model, x, y), is_of_task)

    return Loop(loss_of), rows_of_a_task()

"""Sums of a few numbers of replicas that are in one process: additions, no collective.

So what gradients are divided by is known before they are taken. Between processes it
would take a message for which all wait; there it travels with the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distloss._formula.sparse import is_compiled
from distloss.replicas import Replicas


def are_in_memory(replicas: Replicas) -> bool:
    """Whether numbers of all replicas can be added up without a collective.

    Not where XLA compiles the step, of which it makes one program for each device.
    """
    return replicas.is_in_one_process and not is_compiled()


def sum_in_memory(replicas: Replicas, local: tf.Tensor) -> tf.Tensor:
    """The sum over replicas of `local`, a float tensor of the same shape on each."""
    # stop_gradient also makes a tensor for each replica: one that several share would
    # be counted once, since tf.distribute takes it for the same value.
    return replicas.together(_added_up, [tf.stop_gradient(local)])


def sum_rows(replicas: Replicas, rows: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas, global float32 scalar; between processes a collective.

    Args:
      replicas: who shares the batch.
      rows: local float32 scalar, those of this replica.
    """
    if are_in_memory(replicas):
        return sum_in_memory(replicas, rows)
    return replicas.sum(rows, "rows")


def _added_up(found: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
    return tf.add_n([tensor for [tensor] in found])

"""Sums of a few numbers of replicas that are in one process: additions, no collective.

What they come to is known while the rest of the step is still being computed, so that
gradients can be taken of what is divided already. Between processes that would be a
message that all wait for; there denominators travel with the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distloss._formula.sparse import is_compiled
from distloss.replicas import Replicas


def are_in_memory(replicas: Replicas) -> bool:
    """Whether numbers of all replicas can be added up without a collective.

    Not where XLA compiles the step, which it cuts at each place where replicas meet.
    """
    return replicas.is_in_one_process and not is_compiled()


def sum_in_memory(replicas: Replicas, local: tf.Tensor) -> tf.Tensor:
    """The sum over replicas of `local`, a float tensor of the same shape on each."""
    return replicas.together(_added_up, [tf.stop_gradient(local)])


def _added_up(found: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
    return tf.add_n([tensor for [tensor] in found])

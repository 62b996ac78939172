"""Gradients computed one after the other, so that each is sent while others are not.

TensorFlow orders operations by their inputs alone. With few threads it may go through
all layers first, whose gradients lead to those of the layers below, and come back for
those of weights at the end, the last of them first: then there is nothing to send while
it computes. And processes that compute them in different orders wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distloss._keras.private_names.of_others import ADD_CONTROL_INPUTS
from distloss._types import Gradient
from distloss.replicas.buckets import packed


def one_after_the_other(tensors: Sequence[Gradient]) -> None:
    """Lets what a tensor alone needs wait until the tensors before it are computed.

    Of those that are in the graph that is being made: eager ones are computed.
    """
    graph = tf.compat.v1.get_default_graph()
    every = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    made_here = [t for t in every if tf.is_symbolic_tensor(t) and t.graph is graph]
    if len(made_here) < 2:  # of one there is no order, and a graph is long
        return
    order = _Order(graph)
    for tensor in made_here:
        order.then(tensor.op)


def vectors_in_order(buckets: Sequence[Sequence[Gradient]]) -> list[Gradient]:
    """What each bucket sends, computed one after the other, to be sent at once."""
    vectors = [packed(bucket) for bucket in buckets]
    one_after_the_other(vectors)
    return [*map(_at_once, vectors)]


def _at_once(vector: Gradient) -> Gradient:
    """`vector`, by an operation that is cheap, and that TensorFlow does not take out.

    It runs what is cheap first, and then what that leads to: a collective right after
    this, and not when its thread has nothing left to compute.
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/core/common_runtime/executor.cc
    """
    if isinstance(vector, tf.IndexedSlices):
        return tf.identity(vector)
    return tf.raw_ops.PlaceholderWithDefault(input=vector, shape=vector.shape)


class _Order:
    """What is to be computed, in the order of calls of `then`."""

    def __init__(self, graph: tf.Graph) -> None:
        self._made = {one: at for at, one in enumerate(graph.get_operations())}
        self._earlier: set[Any] = set()  # operations, all that was needed so far
        self._last: Any = None
        self._last_stateful = -1

    def then(self, operation: Any) -> None:
        """`operation` next."""
        needed = self._needed(operation)
        for one in needed if self._last is not None else ():
            if self._may_wait(one, needed):
                ADD_CONTROL_INPUTS.of(one)([self._last])
        self._earlier |= needed
        stateful = [self._made[one] for one in needed if one.op_def.is_stateful]
        self._last_stateful = max([self._last_stateful, *stateful])
        self._last = operation if needed else self._last

    def _needed(self, operation: Any) -> set[Any]:
        """`operation` and all that it is computed of, but what was needed before."""
        found: set[Any] = set()
        rest = [operation]
        while rest:
            one = rest.pop()
            if one not in found and one not in self._earlier:
                found.add(one)
                rest += [tensor.op for tensor in one.inputs] + list(one.control_inputs)
        return found

    def _may_wait(self, one: Any, needed: set[Any]) -> bool:
        """Whether all of `one`'s inputs are there before, and nobody waits in a ring.

        Nothing that was needed before needs `one`. But when all is made, TensorFlow
        lets operations that have a state wait for those that were made before: so all
        of them that were needed before must have been made before `one`.
        """
        inputs = [tensor.op for tensor in one.inputs]
        return (
            bool(inputs)
            and not any(op in needed for op in inputs)
            and self._made[one] > self._last_stateful
        )

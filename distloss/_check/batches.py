"""A global batch of which each replica holds a part: its rows, all of them or some."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._errors import ContextError
from distloss._formula import empty
from distloss._keras.train_functions import per_replica_specs
from distloss.replicas.processes import ALONE, Processes


class GlobalBatch:
    """The parts of all replicas, in their order, as one batch.

    Args:
      batch: nest of what a strategy gives to its replicas, rows along axis 0.
      strategy: of these replicas.
      processes: those that have replicas, which all make it together.

    Attributes:
      rows: how many each replica holds.
      here: the numbers of the replicas of this process.

    Raises:
      ContextError: it has no rows, or its parts differ in more than these.
    """

    def __init__(
        self,
        batch: Any,
        strategy: tf.distribute.Strategy,
        processes: Processes = ALONE,
    ) -> None:
        self._strategy, self._batch = strategy, batch
        own = processes.all_make(lambda: _own_leaves(batch, strategy))
        self._leaves = _of_all(own, processes)
        here = replicas_here(strategy)
        first = processes.index * here
        self.here = range(first, first + here)
        self.rows = processes.all_make(lambda: self._found_rows(processes.count * here))

    def _found_rows(self, count: int) -> tuple[int, ...]:
        parts = [leaf for leaf in self._leaves if len(leaf) == count]
        with_rows = [leaf for leaf in parts if empty.has_rows(leaf[0])]
        if not with_rows:
            raise ContextError(
                "Expected batches with rows along axis 0, dealt to replicas. Got "
                f"{self._batch!r}, in which nothing has an axis that {count} replicas "
                "share."
            )
        return tuple(int(empty.length_of(part)) for part in with_rows[0])

    def whole(self, order: Sequence[int] | None = None) -> Any:
        """All rows, as one device would get them."""
        rows = range(sum(self.rows)) if order is None else order
        return self._packed([_taken(leaf, rows) for leaf in self._all()])

    def between(self, start: int, stop: int) -> Any:
        """Some of the rows, as one device would get them."""
        return self._packed([_between(leaf, start, stop) for leaf in self._all()])

    def dealt(self, bounds: Sequence[tuple[int, int]]) -> Any:
        """Rows from one bound to another for each replica, as those here get them."""
        place = self._strategy.experimental_distribute_values_from_function
        leaves = []
        for leaf in self._all():
            parts = iter([_between(leaf, *bounds[number]) for number in self.here])
            leaves.append(place(lambda _context, parts=parts: next(parts)))
        return self._packed(leaves)

    @functools.cache  # noqa: B019  # lives as long as one check of one step
    def _all(self) -> list[Any]:
        return [self._joined(leaf) for leaf in self._leaves]

    def _joined(self, parts: list[Any]) -> Any:
        if len(parts) == 1 or not empty.has_rows(parts[0]):
            return parts[0]
        with tf.device("CPU:0"):
            if isinstance(parts[0], tf.SparseTensor):
                return tf.sparse.concat(0, parts)
            return tf.concat([tf.identity(part) for part in parts], 0)

    def _packed(self, leaves: list[Any]) -> Any:
        return tf.nest.pack_sequence_as(self._batch, leaves)


def _leaf(value: Any) -> Any:
    return None if isinstance(value, tf.experimental.Optional) else value


def _taken(leaf: Any, rows: Sequence[int]) -> Any:
    is_as_it_is = rows == range(len(rows))
    if is_as_it_is or not empty.has_rows(leaf) or isinstance(leaf, tf.SparseTensor):
        return leaf
    return tf.gather(leaf, list(rows))


def _between(leaf: Any, start: int, stop: int) -> Any:
    if not empty.has_rows(leaf):
        return leaf
    if isinstance(leaf, tf.SparseTensor):
        size = [stop - start, *leaf.dense_shape.numpy()[1:]]
        return tf.sparse.slice(leaf, [start] + [0] * (len(size) - 1), size)
    return leaf[start:stop]


def replicas_here(strategy: tf.distribute.Strategy) -> int:
    """How many replicas of a strategy are in this process."""
    if strategy.num_replicas_in_sync == 1:  # the default strategy knows no devices
        return 1
    return len(strategy.extended.worker_devices)


def _own_leaves(batch: Any, strategy: tf.distribute.Strategy) -> list[list[Any]]:
    """The parts that the replicas of this process hold of each leaf."""
    local = strategy.experimental_local_results
    parts = [[_leaf(part) for part in local(leaf)] for leaf in tf.nest.flatten(batch)]
    return [
        [tf.constant(x) if isinstance(x, np.ndarray) else x for x in leaf]
        for leaf in parts
    ]


def _of_all(own: list[list[Any]], processes: Processes) -> list[list[Any]]:
    """The parts of all replicas of each leaf, given those of this process."""
    if processes.count == 1:
        return own
    sent = processes.all_make(lambda: [[_sent(x) for x in leaf] for leaf in own])
    every = processes.gathered(sent)
    return processes.all_make(
        lambda: [
            [_received(one, leaf[0]) for process in every for one in process[i]]
            if empty.has_rows(leaf[0])
            else leaf
            for i, leaf in enumerate(own)
        ]
    )


def _sent(part: Any) -> list[tuple[Any, str]] | None:
    """Arrays and dtypes of the tensors of which a part with rows consists."""
    if not empty.has_rows(part):
        return None
    tensors = tf.nest.flatten(part, expand_composites=True)
    return [(tensor.numpy(), tensor.dtype.name) for tensor in tensors]


def _received(sent: list[tuple[Any, str]], like: Any) -> Any:
    with tf.device("CPU:0"):
        tensors = [tf.constant(array, dtype) for array, dtype in sent]
    return tf.nest.pack_sequence_as(like, tensors, expand_composites=True)


def with_open_rows(batch: Any) -> Any:
    """What a batch is like, for a function that shall take any number of rows."""
    return tf.nest.map_structure(
        lambda leaf: None if leaf is None else _open(tf.type_spec_from_value(leaf)),
        batch,
    )


def _open(spec: Any) -> Any:
    parts = per_replica_specs(spec)
    if parts is not None:
        return type(spec)(*map(_open, parts))
    if isinstance(spec, tf.TensorSpec) and spec.shape.rank:
        return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
    return spec

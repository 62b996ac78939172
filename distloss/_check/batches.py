"""A global batch of which each replica holds a part: its rows, all of them or some."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distloss._errors import ContextError
from distloss._formula import empty
from distloss._keras.train_functions import per_replica_specs


class GlobalBatch:
    """The parts of all replicas, in their order, as one batch.

    Args:
      batch: nest of what a strategy gives to its replicas, rows along axis 0.
      strategy: of these replicas.

    Attributes:
      rows: how many each replica holds.

    Raises:
      ContextError: it has no rows, or its parts differ in more than these.
    """

    def __init__(self, batch: Any, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        count = strategy.num_replicas_in_sync
        if len(strategy.extended.worker_devices) < count:
            raise ContextError(
                f"several workers share the batch: {count} replicas, of which this "
                "one does not have the rows"
            )
        local = strategy.experimental_local_results
        self._leaves = [
            [_leaf(part) for part in local(leaf)] for leaf in tf.nest.flatten(batch)
        ]
        self._batch = batch
        parts = [leaf for leaf in self._leaves if len(leaf) == count]
        with_rows = [leaf for leaf in parts if empty.has_rows(leaf[0])]
        if not with_rows:
            raise ContextError(
                "Expected batches with rows along axis 0, dealt to replicas. Got "
                f"{batch!r}, in which nothing has an axis that {count} replicas share."
            )
        self.rows = tuple(int(empty.length_of(part)) for part in with_rows[0])

    def whole(self, order: Sequence[int] | None = None) -> Any:
        """All rows, as one device would get them."""
        rows = range(sum(self.rows)) if order is None else order
        return self._packed([_taken(leaf, rows) for leaf in self._all()])

    def between(self, start: int, stop: int) -> Any:
        """Some of the rows, as one device would get them."""
        return self._packed([_between(leaf, start, stop) for leaf in self._all()])

    def dealt(self, bounds: Sequence[tuple[int, int]]) -> Any:
        """Rows from one bound to another for each replica, as replicas get them."""
        leaves = [
            self._strategy.experimental_distribute_values_from_function(
                functools.partial(_part, leaf, bounds)
            )
            for leaf in self._all()
        ]
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


def _part(leaf: Any, bounds: Sequence[tuple[int, int]], context: Any) -> Any:
    return _between(leaf, *bounds[context.replica_id_in_sync_group])


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

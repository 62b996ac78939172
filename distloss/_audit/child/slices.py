"""Slices of sparse gradients that have the same index, in a child of the audit."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class Slices:
    """Counts slices of an index that comes again, and adds them up if asked to.

    Attributes:
      added: whether slices are added up by index before clipping and updates.
      repeats: how many slices had the index of another one.
    """

    def __init__(self) -> None:
        self.added = tf.Variable(False, trainable=False)
        self.repeats = tf.Variable(0, dtype=tf.int64, trainable=False)

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        return {id(self.added), id(self.repeats)}

    def put(self, added: bool) -> None:
        """Adds up from now on, or does not; begins to count."""
        self.added.assign(added)
        self.repeats.assign(0)

    def seen(self, gradient: Any) -> Any:
        """`gradient` as clipping or an update shall see it."""
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        values, indices = gradient.values, gradient.indices
        different, position = tf.unique(indices)
        again = tf.size(indices) - tf.size(different)
        self.repeats.assign_add(tf.cast(again, tf.int64))

        def added_up() -> tuple[Any, Any]:
            count = tf.size(different)
            return tf.math.unsorted_segment_sum(values, position, count), different

        values, indices = tf.cond(self.added, added_up, lambda: (values, indices))
        return tf.IndexedSlices(values, indices, gradient.dense_shape)

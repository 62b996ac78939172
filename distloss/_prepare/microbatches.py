"""A batch in parts, one after the other: what is the sum over the parts?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distloss._errors import ArgumentTypeError
from distloss._formula import empty, reduce, sparse
from distloss._formula.step_context import MicrobatchContext


@dataclass(frozen=True)
class Parts:
    """How one replica's rows are cut.

    Attributes:
      data: local nest of tensors, rows along axis 0; None where there is nothing.
      rows: local int32 scalar, the rows of `data`.
      most: into how many parts it is cut, fewer where it has fewer rows.
    """

    data: Any
    rows: tf.Tensor
    most: int

    def count(self) -> tf.Tensor:
        """How many parts there are, int32 scalar: no part is empty, where rows are."""
        # An eager sum needs one result to know its structure, be it of no rows.
        least = 1 if tf.executing_eagerly() else 0
        return tf.clip_by_value(self.rows, least, self.most)

    def part(self, index: tf.Tensor) -> Any:
        """`data` of one part: `rows / count` rows, or one more."""
        start = index * self.rows // tf.maximum(self.count(), 1)
        stop = (index + 1) * self.rows // tf.maximum(self.count(), 1)
        return keras.tree.map_structure(
            lambda x: None if x is None else _sliced(x, start, stop), self.data
        )


def cut(data: Any, most: int) -> Parts:
    """`data` in at most `most` parts of rows."""
    first = next(x for x in keras.tree.flatten(data) if x is not None)
    return Parts(data, tf.shape(first)[0], most)


def _sliced(tensor: Any, start: tf.Tensor, stop: tf.Tensor) -> Any:
    if isinstance(tensor, tf.SparseTensor):
        raise ArgumentTypeError(
            "Expected batches of dense or ragged tensors, which can be cut into "
            f"parts. Got a tf.SparseTensor of shape {tensor.shape}. Make it dense "
            "with tf.sparse.to_dense, or use microbatches=1."
        )
    return tensor[start:stop]


def sum_over(parts: Parts, function: Callable[[Any], Any]) -> Any:
    """The sum of `function(part)` over all parts, taken one after the other.

    In a graph, `function` is traced once, and no part starts before the one before
    it has ended, so that memory holds one part at a time.

    Args:
      parts: the parts.
      function: part -> nest of float tensors, `tf.IndexedSlices` and None, the same
        structure for each part. `tf.IndexedSlices` are strung together, without
        their dense shape; where XLA compiles the sum, they are added up densely.

    Returns:
      the nest of sums; zeros where there are no rows.
    """
    sums, _ = sum_and_keep(
        parts, lambda data, kept: (function(data), kept), tf.zeros(())
    )
    return sums


def sum_and_keep(
    parts: Parts,
    function: Callable[[Any, tf.Tensor], tuple[Any, tf.Tensor]],
    kept: tf.Tensor,
) -> tuple[Any, tf.Tensor]:
    """As `sum_over`, of parts that hear something of the one before.

    Args:
      parts: the parts.
      function: part and what is kept -> what is summed, and what is kept for the next.
      kept: a tensor that the first part gets.

    Returns:
      the sums, and what the last part gave to keep.
    """
    if tf.executing_eagerly():
        results = []
        for i in range(int(parts.count())):
            result, kept = function(parts.part(i), kept)
            results.append(result)
        return keras.tree.map_structure(_sum, *results), kept
    if sparse.is_compiled():
        # It reads arrays of tensors of open length wrongly, without an error.
        return _graph_sum(parts, functools.partial(_densely_of, function), kept)
    return _graph_sum(parts, function, kept)


def _densely_of(
    function: Callable[..., tuple[Any, tf.Tensor]], data: Any, kept: tf.Tensor
) -> tuple[Any, tf.Tensor]:
    nest, kept = function(data, kept)
    return keras.tree.map_structure(sparse.dense, nest), kept


def counted(
    parts: Parts, forward: Callable[[MicrobatchContext, Any], Any]
) -> tf.Tensor:
    """W_r of each loss that `forward` computes for a part and its data."""

    def count(data: Any) -> tf.Tensor:
        # of how many rows in all does not matter here
        rows, may_be_empty = empty.rows_of(data), tf.executing_eagerly()
        part = MicrobatchContext(rows, tf.ones(()), may_be_empty=may_be_empty)
        forward(part, data)
        dtype = reduce.accumulator_dtype(*part.weights)
        weights = [tf.cast(weight, dtype) for weight in part.weights]
        return tf.stack(weights) if weights else tf.zeros((0,), dtype)

    return sum_over(parts, count)


def _sum(*terms: Any) -> Any:
    if terms[0] is None:
        return None
    if isinstance(terms[0], tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([term.values for term in terms], 0),
            tf.concat([term.indices for term in terms], 0),
        )
    return tf.add_n(terms)


def _graph_sum(
    parts: Parts, function: Callable[..., tuple[Any, tf.Tensor]], kept: tf.Tensor
) -> tuple[Any, tf.Tensor]:
    # A function of its own, because the loop must know before what it adds up.
    traced = tf.function(
        lambda index, kept: function(parts.part(index), kept), autograph=False
    ).get_concrete_function(
        tf.TensorSpec((), tf.int32), tf.TensorSpec(kept.shape, kept.dtype)
    )
    structure, _ = traced.structured_outputs
    count = parts.count()

    def add_part(index: tf.Tensor, sums: list[Any], kept: tf.Tensor) -> tuple[Any, ...]:
        found, kept = traced(index, kept)
        terms = zip(sums, tf.nest.flatten(found), strict=True)
        return index + 1, [_plus(total, term, index) for total, term in terms], kept

    _, sums, kept = tf.while_loop(
        lambda index, *_: index < count,
        add_part,
        (tf.constant(0), [_zero(like) for like in tf.nest.flatten(structure)], kept),
        parallel_iterations=1,
        maximum_iterations=parts.most,
    )
    likes_and_sums = zip(tf.nest.flatten(structure), sums, strict=True)
    ended = [_end(*pair) for pair in likes_and_sums]
    return tf.nest.pack_sequence_as(structure, ended), kept


class _Strung(NamedTuple):
    """`tf.IndexedSlices` of several parts, to be strung together."""

    values: tf.TensorArray
    indices: tf.TensorArray


def _zero(like: Any) -> Any:
    """The sum of no parts, as a loop carries it; None is carried as nothing."""
    if like is None:
        return ()
    if isinstance(like, tf.IndexedSlices):
        return _Strung(*(_tensor_array(x) for x in (like.values, like.indices)))
    return tf.zeros(like.shape, like.dtype)


def _tensor_array(like: tf.Tensor) -> tf.TensorArray:
    shape = [None, *like.shape[1:]]
    return tf.TensorArray(
        like.dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape
    )


def _plus(total: Any, term: Any, index: tf.Tensor) -> Any:
    if term is None:
        return total
    if isinstance(term, tf.IndexedSlices):
        values, indices = term.values, term.indices
        return _Strung(
            total.values.write(index, values), total.indices.write(index, indices)
        )
    return total + term


def _end(like: Any, total: Any) -> Any:
    if like is None:
        return None
    if isinstance(like, tf.IndexedSlices):
        values, indices = (array.concat() for array in total)
        return tf.IndexedSlices(values, indices)
    return total

"""A replica without rows: it computes with one row of zeros, of which nothing counts.

Layers are not made for no rows: a convolution returns a wrong shape, a mean is NaN,
some operations fail. So a step gives an empty replica a row, and keeps what comes of it
from every sum: by a selection, since 0 * NaN is NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from distloss._formula import sparse
from distloss._keras.tensors import note_on, notes_on

_Nest = TypeVar("_Nest")


def rows_of(data: Any) -> tf.Tensor | int:
    """The rows of a nest of batches: an int where they are known, else int32 scalar.

    Those of the first leaf of which they are open, or else of the first that has any;
    1 where there is none.
    """
    leaves = [leaf for leaf in tf.nest.flatten(data) if has_rows(leaf)]
    for leaf in leaves:
        if leaf.shape[0] is None:
            return length_of(leaf)
    return leaves[0].shape[0] if leaves else 1


def with_a_row(data: _Nest) -> _Nest:
    """`data`, and where it has no rows one row of zeros instead.

    Args:
      data: local nest of tensors (dense, ragged, sparse; numbers, strings), rows along
        axis 0. A leaf gets the row if its axis 0 is open or 0; others, such as scalars,
        None and what all rows share, stay as they are.

    Returns:
      the same structure, in memory of its own. In the row, numbers are 0 and strings
      empty; an axis of open length is 1 long where it was 0; a ragged row holds one
      element, a sparse one none. `data` itself where its rows are known not to be 0.
    """
    rows = rows_of(data)
    leaves = tf.nest.flatten(data)
    at = [i for i, leaf in enumerate(leaves) if _may_be_empty(leaf)]
    if not at or (isinstance(rows, int) and rows > 0):
        return data
    found = [leaves[i] for i in at]
    own = tf.identity if _on_accelerators() else _copied
    kept = tf.cond(
        tf.equal(rows, 0),
        lambda: [_or_one_row(leaf) for leaf in found],
        lambda: [_each_tensor(own, leaf) for leaf in found],
    )
    for i, leaf in zip(at, kept, strict=True):
        leaves[i] = _with_known_axes_of(leaves[i], leaf)
    return tf.nest.pack_sequence_as(data, leaves)


def without_it(outputs: _Nest, rows: tf.Tensor | int) -> _Nest:
    """What came of `with_a_row`, without that row.

    Args:
      outputs: local nest of tensors that a model made of it, rows along axis 0, such as
        its predictions, with the masks that Keras attached. Scalars and None stay.
      rows: how many the data had before: `rows_of` it.

    Returns:
      the same structure: nothing along axis 0 where `rows` is 0, else all of it, which
      may be more than `rows`, such as a row per token.
    """
    if tf.get_static_value(rows):
        return outputs
    return tf.nest.map_structure(functools.partial(_none_or_all, rows=rows), outputs)


def zeros_without_rows(values: _Nest, rows: tf.Tensor | int) -> _Nest:
    """`values` where there are rows, else zeros of their shapes, be they NaN or not.

    Args:
      values: nest of float tensors and `tf.IndexedSlices`, such as gradients; None
        stays.
      rows: how many rows they come from: `rows_of` the data.

    Returns:
      the same structure. Not a place to take a gradient through: 0 times what the
      made-up row gives may be NaN. Select after the gradient was taken.
    """
    if tf.get_static_value(rows):
        return values
    leaves = tf.nest.flatten(values)
    at = [i for i, leaf in enumerate(leaves) if leaf is not None]
    found = [leaves[i] for i in at]
    if not found:
        return values
    kept = tf.cond(
        tf.equal(rows, 0),
        lambda: [_zeros_like(leaf) for leaf in found],
        lambda: [_each_tensor(tf.identity, leaf) for leaf in found],
    )
    for i, leaf in zip(at, kept, strict=True):
        if isinstance(leaf, tf.Tensor):
            leaf.set_shape(leaves[i].shape)
        leaves[i] = leaf
    return tf.nest.pack_sequence_as(values, leaves)


def has_rows(leaf: Any) -> bool:
    """Whether `leaf` of a batch has an axis of rows."""
    return leaf is not None and bool(getattr(getattr(leaf, "shape", None), "rank", 0))


def _may_be_empty(leaf: Any) -> bool:
    return has_rows(leaf) and not leaf.shape[0]


def length_of(leaf: Any) -> tf.Tensor:
    """How long axis 0 of `leaf` is, int32 scalar."""
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    shape = leaf.dense_shape if isinstance(leaf, tf.SparseTensor) else tf.shape(leaf)
    return tf.cast(shape[0], tf.int32)


def _each_tensor(function: Callable[[tf.Tensor], tf.Tensor], leaf: Any) -> Any:
    return tf.nest.map_structure(function, leaf, expand_composites=True)


@tf.custom_gradient
def _copied(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """A replica's slice of a batch, which may lie in an array of the user's.

    TensorFlow reuses the memory of such a slice for results, so that the next epoch has
    other data: examples/upstream/tensorflow_generated_views.py.
    """
    return tf.raw_ops.DeepCopy(x=tensor), lambda gradient: gradient


def _on_accelerators() -> bool:
    """Whether replicas compute in another memory than that of the user's arrays."""
    return sparse.is_compiled() or bool(tf.config.list_logical_devices("GPU"))


def _or_one_row(leaf: Any) -> Any:
    """A row of zeros; `leaf` itself where it is not empty while others are."""
    if isinstance(leaf, tf.RaggedTensor):
        return _ragged_row(leaf)
    shape = leaf.dense_shape if isinstance(leaf, tf.SparseTensor) else tf.shape(leaf)
    sizes = [
        tf.maximum(shape[axis], 1) if size is None or axis == 0 else shape[axis]
        for axis, size in enumerate(leaf.shape)
    ]
    if isinstance(leaf, tf.SparseTensor):
        return tf.SparseTensor(leaf.indices, leaf.values, tf.stack(sizes))
    return tf.cond(
        tf.equal(shape[0], 0),
        lambda: tf.zeros(tf.stack(sizes), leaf.dtype),
        lambda: tf.identity(leaf),
    )


def _with_known_axes_of(leaf: Any, kept: Any) -> Any:
    """`kept`, made of `leaf` by a condition, which forgets axes that are known."""
    if isinstance(leaf, tf.SparseTensor):
        sizes = [
            kept.dense_shape[axis] if size is None or axis == 0 else size
            for axis, size in enumerate(leaf.shape)
        ]
        return tf.SparseTensor(kept.indices, kept.values, tf.stack(sizes))
    flat = [
        x.flat_values if isinstance(x, tf.RaggedTensor) else x for x in (leaf, kept)
    ]
    flat[1].set_shape([None, *flat[0].shape[1:]])
    return kept


def _ragged_row(leaf: tf.RaggedTensor) -> tf.RaggedTensor:
    return tf.cond(
        tf.equal(leaf.nrows(), 0),
        lambda: _one_row_of(leaf),
        lambda: _each_tensor(tf.identity, leaf),
    )


def _one_row_of(leaf: tf.RaggedTensor) -> tf.RaggedTensor:
    """A ragged row of as many elements as its rows must have, or one."""
    lengths, flat = [], leaf
    while isinstance(flat, tf.RaggedTensor):
        lengths.append(flat.uniform_row_length)
        flat = flat.values
    count = tf.ones((), leaf.row_splits.dtype)
    made = []
    for length in lengths:
        each = tf.ones_like(count) if length is None else length
        made.append((count, each, length is None))
        count = count * each
    sizes = [count, *tf.unstack(tf.cast(tf.shape(flat)[1:], count.dtype))]
    values: Any = tf.zeros(tf.stack(sizes), leaf.dtype)
    for nrows, each, is_open in reversed(made):
        if is_open:
            splits = tf.range(nrows + 1) * each
            values = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        else:
            values = tf.RaggedTensor.from_uniform_row_length(
                values, each, nrows, validate=False
            )
    return values


def _none_or_all(output: Any, rows: tf.Tensor | int) -> Any:
    if not has_rows(output):
        return output
    length = length_of(output)
    kept = tf.where(tf.equal(rows, 0), tf.zeros_like(length), length)
    if isinstance(output, tf.SparseTensor):
        return _sparse_start(output, kept)
    start = _start(output, kept)
    notes = {name: note[:kept] for name, note in notes_on(output).items()}
    return note_on(start, notes)


def _start(output: Any, length: tf.Tensor) -> Any:
    # Crossentropies look for what made probabilities, and compute with its logits:
    # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/nn.py
    if isinstance(output, tf.Tensor) and not tf.executing_eagerly():
        again = {"Softmax": tf.nn.softmax, "Sigmoid": tf.sigmoid}.get(output.op.type)
        if again is not None:
            return again(output.op.inputs[0][:length])
    return output[:length]


def _sparse_start(output: tf.SparseTensor, length: tf.Tensor) -> tf.SparseTensor:
    sizes = tf.concat([[tf.cast(length, tf.int64)], output.dense_shape[1:]], 0)
    return tf.sparse.slice(output, tf.zeros_like(sizes), sizes)


def _zeros_like(value: Any) -> Any:
    if isinstance(value, tf.IndexedSlices):
        zeros = tf.zeros_like(value.values)
        return tf.IndexedSlices(zeros, value.indices, value.dense_shape)
    return tf.zeros_like(value)

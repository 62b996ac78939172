"""Data sets for replicas that do not hold the same number of batches."""

from __future__ import annotations

import numbers
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError, ArgumentTypeError
from distloss.replicas.horovod import HorovodReplicas


def in_step(
    dataset: tf.data.Dataset,
    *,
    replicas: HorovodReplicas | None = None,
    batches: int | None = None,
) -> tf.data.Dataset:
    """`dataset`, with empty batches at its end until all processes are done.

    A process that runs out of batches before the others leaves them waiting in their
    next collective. This one goes on with batches of zero rows, which add nothing to
    any sum: every row of every process counts once, and nobody waits.

    The processes agree on the largest number of batches once, when this is called; all
    must call it together. Under `mean_with_sample_weight` and the other means empty
    batches are exact. Layers of a prepared model see one row of zeros in their place,
    of weight zero. In a loop of your own they see none, and `BatchNormalization` has no
    mean of that.

    Args:
      dataset: local, finite, of batches with rows along axis 0: nests of dense, ragged
        and sparse tensors, optional values of them, and None.
      replicas: the processes; None means all of Horovod's.
      batches: how many batches `dataset` has. None asks it, and where it does not know
        (after a filter, or from a generator) counts them by going through it once.

    Returns:
      a data set of the same elements, as long on all processes.

    Raises:
      ArgumentTypeError: `dataset` is no `tf.data.Dataset`.
      ArgumentError: it never ends, no process has a batch, an element is no batch of
        rows, or `batches` is negative or no int.

    Example:
      >>> import tensorflow as tf
      >>> from distloss.data import empty_batches
      >>> batches = tf.data.Dataset.range(5).batch(2)
      >>> [len(batch) for batch in batches.concatenate(empty_batches(batches, 1))]
      [2, 2, 1, 0]

    Reference: `hvd.join`, under which Horovod's averages divide by all processes, also
    by those that are done: https://github.com/horovod/horovod/issues/2118.
    """
    local = _batch_count(dataset, batches)
    replicas = replicas or HorovodReplicas()
    count = tf.constant(local, tf.int64)
    most = int(replicas.maximum(count, "batches"))
    if most == 0:
        raise ArgumentError(
            "Expected a data set with batches. Got one without, on each process. Look "
            "at what filter, take, shard or batch(drop_remainder=True) leave of it."
        )
    joined = dataset.concatenate(empty_batches(dataset, most - local))
    return joined.apply(tf.data.experimental.assert_cardinality(most))


def empty_batches(dataset: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """`count` batches of zero rows, of the structure of those of `dataset`."""
    batch = tf.nest.map_structure(_empty_of, dataset.element_spec)
    return tf.data.Dataset.from_tensors(batch).repeat(count)


def _empty_of(spec: Any) -> Any:
    """A value of `spec` without rows; a number that is no batch is 0."""
    if isinstance(spec, tf.NoneTensorSpec | tf.OptionalSpec):
        return _nothing_of(spec)
    makers = {
        tf.RaggedTensorSpec: _empty_ragged,
        tf.SparseTensorSpec: _empty_sparse,
        tf.TensorSpec: _empty_dense,
    }
    if type(spec) not in makers or spec.shape.rank is None:
        raise ArgumentError(
            "Expected batches of dense, ragged and sparse tensors of known rank. Got "
            f"{spec}, of which no empty batch can be made. Call batch(), "
            "tf.ensure_shape(x, [None, ...]) or map to such tensors before in_step."
        )
    return makers[type(spec)](spec)


def _nothing_of(spec: Any) -> Any:
    if isinstance(spec, tf.OptionalSpec):
        return tf.experimental.Optional.from_value(
            tf.nest.map_structure(_empty_of, spec._element_spec)
        )
    return None


def _empty_shape(shape: tf.TensorShape) -> list[int]:
    return [0, *(size or 0 for size in shape[1:])] if shape.rank else []


def _empty_dense(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.zeros(_empty_shape(spec.shape), spec.dtype)


def _empty_sparse(spec: tf.SparseTensorSpec) -> tf.SparseTensor:
    shape = _empty_shape(spec.shape)
    return tf.SparseTensor(
        tf.zeros([0, len(shape)], tf.int64), tf.zeros([0], spec.dtype), shape
    )


def _empty_ragged(spec: tf.RaggedTensorSpec) -> Any:
    shape, rank = spec.shape, spec.ragged_rank
    value: Any = tf.zeros(_empty_shape(shape[rank:]), spec.dtype)
    for length in reversed(shape[1 : rank + 1]):
        if length is None:
            splits = tf.zeros([1], spec.row_splits_dtype)
            value = tf.RaggedTensor.from_row_splits(value, splits)
        else:
            length = tf.constant(length, spec.row_splits_dtype)
            value = tf.RaggedTensor.from_uniform_row_length(value, length, nrows=0)
    return value


def _batch_count(dataset: Any, batches: Any) -> int:
    if not isinstance(dataset, tf.data.Dataset):
        raise ArgumentTypeError(
            "Expected dataset= to be a tf.data.Dataset of batches. Got "
            f"{type(dataset).__name__}. For arrays: tf.data.Dataset.from_tensor_slices("
            "(x, y)).batch(size)."
        )
    if batches is not None:
        if not isinstance(batches, numbers.Integral) or batches < 0:
            raise ArgumentError(
                "Expected batches= to be the number of batches, an int of 0 or more. "
                f"Got batches={batches!r}."
            )
        return int(batches)
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ArgumentError(
            "Expected a data set that ends. Got one that repeats for ever, which is in "
            "step by itself. Leave out repeat(), or pass steps_per_epoch to model.fit."
        )
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = int(dataset.reduce(tf.constant(0, tf.int64), lambda n, *_: n + 1))
    return count

"""Data sets for replicas that do not hold the same number of batches."""

from __future__ import annotations

import numbers
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError, ArgumentTypeError
from distloss._horovod import HorovodReplicas


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
    batches are exact. `BatchNormalization` is not: it has no mean of zero rows.

    Args:
      dataset: local, finite, of batches with rows along axis 0.
      replicas: the processes; None means all of Horovod's.
      batches: how many batches `dataset` has. None asks it, and where it does not know
        (after a filter, or from a generator) counts them by going through it once.

    Returns:
      a data set of the same elements, as long on all processes.

    Raises:
      ArgumentTypeError: `dataset` is no `tf.data.Dataset`.
      ArgumentError: it never ends, or `batches` is negative or no int.

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
    joined = dataset.concatenate(empty_batches(dataset, most - local))
    return joined.apply(tf.data.experimental.assert_cardinality(most))


def empty_batches(dataset: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """`count` batches of zero rows, of the structure of those of `dataset`."""

    def empty(spec: Any) -> tf.Tensor:
        shape = spec.shape.as_list()
        return tf.zeros([0, *(size or 0 for size in shape[1:])], spec.dtype)

    batch = tf.nest.map_structure(empty, dataset.element_spec)
    return tf.data.Dataset.from_tensors(batch).repeat(count)


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

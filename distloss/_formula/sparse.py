"""Sparse gradients: a row that comes in several slices has their sum as its gradient.

How a gradient is cut into slices depends on how the batch is: one slice per position on
one device is N slices on N replicas. Keras 3 squares, clips and measures each slice
apart, so that its update depends on the cut, on one device too:
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/sparse.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from distloss._types import Gradient
from distloss.replicas import Replicas


def shaped(gradient: Any, variable: Any) -> Any:
    """`gradient`, with the shape of `variable` where it has forgotten its own.

    On shapes depends which gradients are summed together, the same on all replicas.
    """
    if isinstance(gradient, tf.IndexedSlices):
        shape = tf.constant([*variable.shape], tf.int64)
        return tf.IndexedSlices(gradient.values, gradient.indices, shape)
    if isinstance(gradient, tf.Tensor) and gradient.shape.num_elements() is None:
        gradient.set_shape(variable.shape)
    return gradient


def added_up(gradients: Sequence[Gradient], *, densely: bool = False) -> list[Gradient]:
    """`gradients`, of which sparse ones have one slice per index.

    Args:
      gradients: float tensors, or `tf.IndexedSlices` that know their dense shape.
      densely: whether all shall be dense, for what cannot take slices.

    Returns:
      the same gradients; dense also where XLA compiles them, for the number of
      different indices is a shape that is not known before.
    """
    densely = densely or is_compiled()
    return [
        (dense(gradient) if densely else _of_one_slice_each(gradient))
        if isinstance(gradient, tf.IndexedSlices)
        else gradient
        for gradient in gradients
    ]


def to_send(gradients: Sequence[Gradient], replicas: Replicas) -> list[Gradient]:
    """`gradients` with as few slices as they can have, where there are other replicas.

    All slices go to all replicas, each of which adds them up and, if it clips, measures
    them: what is added up before is sent and read by nobody else.
    """
    if replicas.count() == 1 or is_compiled():
        return list(gradients)
    return added_up(gradients)


def _of_one_slice_each(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    indices, slots = tf.unique(gradient.indices)
    sums = tf.math.unsorted_segment_sum(gradient.values, slots, tf.size(indices))
    return tf.IndexedSlices(sums, indices, gradient.dense_shape)


def times(gradient: Gradient, factor: tf.Tensor) -> Gradient:
    """`gradient * factor`, and 0 where that is 0, be the gradient NaN or not."""
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.math.multiply_no_nan(gradient, factor)
    values = tf.math.multiply_no_nan(gradient.values, factor)
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def cast(gradient: Gradient, dtype: tf.DType) -> Gradient:
    """`gradient` in `dtype`; itself where that is its own."""
    return gradient if gradient.dtype == dtype else tf.cast(gradient, dtype)


def dense(gradient: Any) -> Any:
    """`gradient`, as a tensor where it is `tf.IndexedSlices`."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    return gradient


def is_compiled() -> bool:
    """Whether what is traced now will be compiled by XLA, as all is for a TPU."""
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))

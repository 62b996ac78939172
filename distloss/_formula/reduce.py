"""The formula, once: carry sums, divide once, by a global denominator.

Replica r holds element losses v with weights w, and

    S_r = sum(w * v)      W_r = what r adds to the denominator      W = sum_r W_r
    share_r = S_r / W     so that     sum_r share_r = S / W

Gradients of shares add up to the gradient of the mean over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from distloss._formula.shapes import aligned, numbers, of_known_rank
from distloss._types import TensorLike
from distloss.replicas import Replicas

_Function = TypeVar("_Function", bound=Callable[..., Any])


def without_autograph(function: _Function) -> _Function:
    """`function`, kept from being rewritten in a caller's `tf.function`.

    There is no tensor-dependent `if` to rewrite, and the rewriting costs more than
    the tracing. Keras' own losses are left alone in the same way.
    """
    return tf.autograph.experimental.do_not_convert(function)


class Weighted(NamedTuple):
    """One replica's element losses, ready to be summed.

    Attributes:
      elements: local float32 or float64, `w * v`, the loss of each element.
      weights: local, of the rank of `elements` or a scalar, or None where every
        weight is 1.
      mask: local, 0 or 1, of the rank of `elements`, or None where nothing is masked.
    """

    elements: tf.Tensor
    weights: tf.Tensor | None
    mask: tf.Tensor | None


def accumulator_dtype(*tensors: Any) -> tf.DType:
    """float64 if any of `tensors` is float64, else float32.

    bfloat16 loses rows beyond 256 terms, float16 overflows at 65,504.
    """
    dtypes = [getattr(tensor, "dtype", None) for tensor in tensors]
    return tf.float64 if any(dtype == "float64" for dtype in dtypes) else tf.float32


def weighted(
    values: TensorLike,
    sample_weight: TensorLike | None = None,
    mask: TensorLike | None = None,
) -> Weighted:
    """The element losses times their weights and their mask.

    Args:
      values: local float, rank 1 or more, rows along axis 0.
      sample_weight: local number, or None for 1. A scalar, `[rows]`, or a shape
        that broadcasts to `values`, axis 0 along rows; one axis of size 1 more or
        less at the end is squeezed or added, as Keras does it.
      mask: local boolean or 0 and 1, shapes as for `sample_weight`; None masks
        nothing.

    Raises:
      ShapeError: a weight or mask does not broadcast to `values`, or a rank is not
        known.
      ArgumentTypeError: one of them is not of real numbers.
    """
    values = numbers(values, "values")
    dtype = accumulator_dtype(values)
    elements = of_known_rank(tf.cast(values, dtype))
    if mask is not None:
        mask = of_known_rank(tf.cast(numbers(mask, "mask"), dtype))
    if sample_weight is not None:
        weights = numbers(sample_weight, "weights")
        sample_weight = of_known_rank(tf.cast(weights, dtype))
    weights = _product(mask, sample_weight)
    if weights is None:
        return Weighted(elements, None, None)
    elements, weights = aligned(elements, weights)
    elements = elements * weights
    if mask is not None:
        _, mask = aligned(elements, mask)
    return Weighted(elements, weights, mask)


def _product(mask: tf.Tensor | None, weights: tf.Tensor | None) -> tf.Tensor | None:
    if mask is None:
        return weights
    if weights is None:
        return mask
    mask, weights = aligned(mask, weights)
    return mask * weights


def row_means(local: Weighted) -> Weighted:
    """The mean of each row, by the weights of its elements; no weight, no row.

    Returns:
      elements and a mask of shape `[rows]`.
    """
    axes = list(range(1, local.elements.shape.rank))
    if local.weights is None:
        return Weighted(tf.reduce_mean(local.elements, axes), None, None)
    weights = tf.reduce_sum(tf.ones_like(local.elements) * local.weights, axes)
    means = share(tf.reduce_sum(local.elements, axes), weights)
    return Weighted(means, None, tf.cast(weights > 0, means.dtype))


def total(local: Weighted) -> tf.Tensor:
    """S_r: the sum of the weighted element losses, a local float scalar."""
    return tf.reduce_sum(local.elements)


def element_count(local: Weighted) -> tf.Tensor:
    """W_r of `"mean"`: how many elements are unmasked, a local float scalar."""
    if local.mask is None:
        return tf.cast(tf.size(local.elements), local.elements.dtype)
    return tf.reduce_sum(tf.ones_like(local.elements) * local.mask)


def element_weight(local: Weighted) -> tf.Tensor:
    """W_r of `mean_share`: the weight of all elements, a local float scalar."""
    if local.weights is None:
        return element_count(local)
    return tf.reduce_sum(tf.ones_like(local.elements) * local.weights)


def keras_sample_weight(local: Weighted, replicas: Replicas) -> tf.Tensor:
    """W_r of `"mean_with_sample_weight"`: a local float scalar.

    Keras adds up the weights as they were passed, before they broadcast: weights
    `[rows, 1]` of values `[rows, tokens]` count once per row, not once per token.
    https://github.com/keras-team/keras/blob/v3.12.0/keras/src/losses/loss.py
    """
    if local.weights is None:
        return element_count(local)
    weight = tf.reduce_sum(local.weights)
    # Shared by all rows, so the same on every replica: each adds its part of one copy.
    part_of_a_copy = weight / replicas.count_as(weight.dtype)
    return tf.where(_are_shared(local.weights, local.elements), part_of_a_copy, weight)


def weight_of(local: Weighted, reduction: str, replicas: Replicas) -> tf.Tensor | None:
    """W_r of a `reduction` of Keras, a local float scalar; None where W is 1."""
    if reduction == "sum":
        return None
    if reduction == "mean_with_sample_weight":
        return keras_sample_weight(local, replicas)
    return element_count(local)


def sharing_of(local: Weighted, reduction: str) -> tf.Tensor | None:
    """1 if this replica knows its weights to be those of all rows, else 0.

    None where W does not depend on it, or there are no weights that rows could share. A
    replica of one row with one weight does not know it: its weight is its row's own,
    unless another replica, with more rows or none, got one weight as well.
    """
    if reduction != "mean_with_sample_weight" or local.weights is None:
        return None
    return tf.cast(_are_shared(local.weights, local.elements), local.elements.dtype)


def _are_shared(weights: tf.Tensor, elements: tf.Tensor) -> tf.Tensor:
    """Whether there is one weight for all rows: sure where these are not one row."""
    if weights.shape.rank == 0:
        return tf.constant(True)
    return (_rows(weights) == 1) & (_rows(elements) != 1)


def _rows(tensor: tf.Tensor) -> tf.Tensor:
    rows = tensor.shape[0]
    return tf.shape(tensor)[0] if rows is None else tf.constant(rows)


def fixed_count(local: Weighted, rows: tf.Tensor | int) -> tf.Tensor:
    """W of a global batch of `rows` rows: a global float scalar, masks or not."""
    elements_per_row = tf.reduce_prod(tf.shape(local.elements)[1:])
    dtype = local.elements.dtype
    return tf.cast(rows, dtype) * tf.cast(elements_per_row, dtype)


def share(numerator: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """`numerator / weight`, and 0 with gradient 0 where nobody has weight."""
    return tf.math.divide_no_nan(numerator, tf.stop_gradient(weight))


def once(
    weight: tf.Tensor,
    sharing: tf.Tensor,
    replicas: Replicas,
    absent: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """`weight`, where some replicas know that they share weights: those counted once.

    These added their part of one copy, and each of the others a whole copy; but those
    that are `absent`, without rows, added nothing.
    """
    count = replicas.count_as(weight.dtype)
    copies = sharing / count + (count - absent - sharing)
    return tf.where(sharing > 0, weight / copies, weight)


@tf.custom_gradient
def value_with_gradient_of(source: tf.Tensor, value: tf.Tensor) -> Any:
    """`value`, with the gradient of `source`."""
    # source + stop_gradient(value - source) would round, and make inf - inf a NaN.
    return tf.identity(value), lambda upstream: (upstream, None)

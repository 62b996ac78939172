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

from distloss._errors import ArgumentTypeError, ShapeError
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


def numbers(value: TensorLike, name: str) -> tf.Tensor:
    """`value` as a tensor of real numbers or booleans.

    Raises:
      ArgumentTypeError: it is none. A cast would drop an imaginary part in silence.
    """
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise _no_numbers(value, name) from error
    dtype = tensor.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise _no_numbers(value, name, f" and dtype={dtype.name}")
    return tensor


def _no_numbers(value: Any, name: str, dtype: str = "") -> ArgumentTypeError:
    shown = " ".join(repr(value).split())
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return ArgumentTypeError(
        f"Expected {name} to be real numbers or booleans: a tensor, an array or a list "
        f"without gaps. Got {name}={shown} of type {type(value).__name__}{dtype}. "
        "Convert it first; of a RaggedTensor take flat_values, or to_tensor() with "
        "weights of 0 where it pads."
    )


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
    elements = _of_known_rank(tf.cast(values, dtype))
    if mask is not None:
        mask = _of_known_rank(tf.cast(numbers(mask, "mask"), dtype))
    if sample_weight is not None:
        weights = numbers(sample_weight, "weights")
        sample_weight = _of_known_rank(tf.cast(weights, dtype))
    weights = _product(mask, sample_weight)
    if weights is None:
        return Weighted(elements, None, None)
    elements, weights = aligned(elements, weights)
    elements = elements * weights
    if mask is not None:
        _, mask = aligned(elements, mask)
    return Weighted(elements, weights, mask)


def _of_known_rank(tensor: tf.Tensor) -> tf.Tensor:
    if tensor.shape.rank is None:
        raise ShapeError(
            "Expected element losses, weights and masks of known rank. Got shape "
            f"{tensor.shape} for {tensor.name}: it could be a scalar, a mean that was "
            "taken already. Call its set_shape([None, ...]) first; tf.py_function and "
            "tf.numpy_function need that."
        )
    return tensor


def _product(mask: tf.Tensor | None, weights: tf.Tensor | None) -> tf.Tensor | None:
    if mask is None:
        return weights
    if weights is None:
        return mask
    mask, weights = aligned(mask, weights)
    return mask * weights


def same_rank(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both tensors, with an axis of size 1 at the end squeezed or added.

    Keras' rule for targets, predictions and weights whose ranks differ by one;
    other tensors come back as they are.
    """
    if first.shape.rank is None or second.shape.rank is None:
        return first, second
    if first.shape.rank == second.shape.rank + 1:
        return _same_rank_longer_first(first, second)
    if second.shape.rank == first.shape.rank + 1:
        longer, shorter = _same_rank_longer_first(second, first)
        return shorter, longer
    return first, second


def _same_rank_longer_first(
    longer: tf.Tensor, shorter: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    if longer.shape[-1] != 1:
        return longer, shorter
    if shorter.shape.rank == 1:
        return longer, shorter[..., tf.newaxis]
    return tf.squeeze(longer, -1), shorter


def aligned(values: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`values` and `weights` in shapes that multiply element by element.

    Raises:
      ShapeError: `weights` does not broadcast to `values`.
    """
    if weights.shape.rank == 0:
        return values, weights
    new_values, new_weights = same_rank(values, weights)
    missing = max(0, new_values.shape.rank - new_weights.shape.rank)
    # Axis 0 stays rows: by NumPy's rule [n] weights would go along the last axis, so
    # that their meaning hung on how many rows a replica got.
    new_weights = new_weights[(..., *[tf.newaxis] * missing)]
    if not _broadcasts_to(new_weights.shape, new_values.shape):
        raise ShapeError(
            "Expected weights or a mask that broadcast to the element losses. Got "
            f"weights.shape={weights.shape}, values.shape={values.shape}. Pass one "
            "weight per row, of shape [rows], or one per element, of the shape of the "
            "values; where all rows share them, with a first axis of size 1."
        )
    return new_values, new_weights


def _broadcasts_to(weights: tf.TensorShape, values: tf.TensorShape) -> bool:
    if weights.rank != values.rank:
        return False
    if weights[0] not in (None, 1) and values[0] not in (None, weights[0]):
        return False  # each row has one loss, so weights cannot add rows
    # an axis of size 1 of the values may grow, as in Keras
    pairs = zip(values[1:], weights[1:], strict=True)
    return all(None in pair or 1 in pair or pair[0] == pair[1] for pair in pairs)


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
    """What `sharing_replicas` says, or None where W does not depend on it."""
    return sharing_replicas(local) if reduction == "mean_with_sample_weight" else None


def sharing_replicas(local: Weighted) -> tf.Tensor | None:
    """1 if this replica knows its weights to be those of all rows, else 0.

    None where there are no weights that rows could share. A replica of one row with
    one weight does not know it: its weight is its row's own, unless another replica,
    with more rows or none, got one weight as well.
    """
    if local.weights is None:
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


class Reduced(NamedTuple):
    """A loss on one replica.

    Attributes:
      value: float scalar, what the loss returns.
      denominator: global float scalar, W, by which its gradient is divided.
    """

    value: tf.Tensor
    denominator: tf.Tensor


def counted_share(
    local_sum: tf.Tensor,
    weight: tf.Tensor | None,
    replicas: Replicas,
    name: str,
    sharing: tf.Tensor | None = None,
) -> Reduced:
    """The share of a local sum, reported as the global mean.

    Args:
      local_sum: S_r, local float scalar.
      weight: W_r, local float scalar; None fixes W at 1.
      replicas: who shares the batch.
      name: whose sums, the same word on all replicas.
      sharing: what `sharing_replicas` says, where `weight` depends on that.

    Returns:
      a value that is the same on all replicas, `replicas.reported(S / W)`, whose
      gradient is that of this replica's share, `S_r / W`; and W.
    """
    # One vector, so one collective. Behind stop_gradient, because the gradient of
    # a sum over replicas is summed over replicas again: N times too large.
    parts = [part for part in (local_sum, weight, sharing) if part is not None]
    sums = replicas.sum(tf.stop_gradient(tf.stack(parts)), name)
    denominator = tf.ones_like(sums[0]) if weight is None else sums[1]
    if sharing is not None:
        denominator = once(denominator, sums[2], replicas)
    reported = replicas.reported(share(sums[0], denominator))
    own_share = replicas.to_reduce(share(local_sum, denominator))
    value = value_with_gradient_of(own_share, reported)
    return Reduced(value, denominator)


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

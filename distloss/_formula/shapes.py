"""Values, weights and masks as tensors of numbers, in shapes that multiply."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentTypeError, ShapeError
from distloss._types import TensorLike


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


def of_known_rank(tensor: tf.Tensor) -> tf.Tensor:
    """`tensor`; raises ShapeError where its rank is not known."""
    if tensor.shape.rank is None:
        raise ShapeError(
            "Expected element losses, weights and masks of known rank. Got shape "
            f"{tensor.shape} for {tensor.name}: it could be a scalar, a mean that was "
            "taken already. Call its set_shape([None, ...]) first; tf.py_function and "
            "tf.numpy_function need that."
        )
    return tensor


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

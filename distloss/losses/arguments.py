"""The arguments of a `DistributedLoss`, checked the same for both Kerases."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._errors import (
    ArgumentError,
    ArgumentTypeError,
)
from distloss._types import REDUCTIONS


def refuse_own_call(loss: Any, base: Any) -> None:
    """Raises ArgumentTypeError where the class of `loss` reduces by itself."""
    if type(loss).__call__ is not base.__call__:
        raise ArgumentTypeError(
            "Expected a loss that leaves weights and reduction to keras.losses.Loss. "
            f"Got loss={loss!r}, whose class overrides __call__. Override call() "
            "instead, or pass a callable that returns the loss of each row."
        )


def found_loss(loss: Any, losses: Any) -> Any:
    """What `losses.get(loss)` of a Keras finds: a loss of it, or a function."""
    if not (isinstance(loss, str | dict) or callable(loss)):
        raise ArgumentTypeError(
            "Expected loss= to be a keras.losses.Loss, an identifier such as 'mse', or "
            "a callable (y_true, y_pred) -> values. Got "
            f"loss={loss!r} of type {type(loss).__name__}."
        )
    try:
        return losses.get(loss)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "Expected the name or config of a loss that keras.losses.get knows, such "
            f"as 'mse'. Got loss={loss!r}. Pass one of these, or the loss itself."
        ) from error


def name_of(loss: Any, function: Any) -> str:
    """The name of the loss `function`, which was found for `loss`."""
    name = loss if isinstance(loss, str) else getattr(function, "__name__", None)
    return name or type(function).__name__


def checked_reduction(reduction: str | None, element_loss: Any) -> str:
    """`reduction`, or where it is None that of `element_loss`.

    Raises:
      ArgumentError: it is none that distloss knows.
    """
    if reduction is None:
        reduction = element_loss.reduction or "none"
    if reduction not in REDUCTIONS:
        raise ArgumentError(
            f"Expected reduction= to be one of {', '.join(map(repr, REDUCTIONS))}, or "
            f"None for the wrapped loss's own. Got reduction={reduction!r}."
        )
    return reduction


def checked_batch_size(rows: Any) -> int | tf.Tensor | None:
    """`rows` as the rows of a global batch, or None.

    Raises:
      ArgumentTypeError: it is no int and no scalar integer tensor.
      ArgumentError: it is below 1.
    """
    if rows is None:
        return None
    is_count = (
        rows.dtype.is_integer and rows.shape.rank == 0
        if tf.is_tensor(rows)
        else isinstance(rows, numbers.Integral) and not isinstance(rows, bool)
    )
    if not is_count:
        raise ArgumentTypeError(
            "Expected global_batch_size= to be a number of rows, an int or a scalar "
            f"integer tensor. Got global_batch_size={rows!r} of type "
            f"{type(rows).__name__}. Pass rows over all replicas; for a sum of weights "
            "leave it out and use reduction='mean_with_sample_weight'."
        )
    if tf.get_static_value(rows) is not None and np.asarray(rows) < 1:
        raise ArgumentError(
            "Expected global_batch_size= to be at least 1 row. Got global_batch_size="
            f"{rows!r}. Pass rows over all replicas, or None to count."
        )
    return rows if tf.is_tensor(rows) else int(rows)

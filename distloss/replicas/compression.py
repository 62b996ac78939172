"""Gradients that are sent in fewer bits than they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._types import COMPRESSIONS, Gradient

_DTYPES = {"fp16": tf.float16, "bf16": tf.bfloat16}


def checked_compression(
    compression: Any, known: Sequence[str] = COMPRESSIONS, also: str = ""
) -> str:
    """`compression`, if it is one of the `known`.

    Raises:
      ArgumentError: it is not.
    """
    if not isinstance(compression, str) or compression not in known:
        raise ArgumentError(
            f"Expected compression= to be one of {', '.join(map(repr, known))}{also}. "
            f"Got compression={compression!r}. Leave it out to send gradients whole."
        )
    return compression


def dtype_sent(dtype: tf.DType, compression: str) -> tf.DType:
    """In which dtype dense gradients of `dtype` are sent: what is as short stays."""
    short = _DTYPES.get(compression, dtype)
    return short if short.size < dtype.size else dtype


def compressed(gradients: Sequence[Gradient], compression: str) -> list[Gradient]:
    """`gradients` as they are sent: dense ones short, sparse ones whole.

    Of sparse ones nothing is added up on the way, and only some rows are sent at all.
    """
    return [
        gradient
        if isinstance(gradient, tf.IndexedSlices)
        else tf.cast(gradient, dtype_sent(gradient.dtype, compression))
        for gradient in gradients
    ]

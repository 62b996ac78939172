"""Which gradients travel together, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError, ArgumentTypeError
from distloss._types import Gradient

# A message takes about a millisecond before its first byte is sent (a cycle of
# Horovod's thread, a round over TCP), in which 10 Gbit/s send about as many bytes as
# this: smaller ones would mostly wait, larger ones let the wire wait for gradients.
BUCKET_BYTES = 2**20


def checked_bucket_bytes(bucket_bytes: Any) -> int:
    """`bucket_bytes`, if it is a number of bytes.

    Raises:
      ArgumentTypeError: it is no int.
      ArgumentError: it is below 1.
    """
    if isinstance(bucket_bytes, bool) or not isinstance(bucket_bytes, int):
        raise ArgumentTypeError(
            "Expected bucket_bytes= to be a whole number of bytes. Got bucket_bytes="
            f"{bucket_bytes!r} of type {type(bucket_bytes).__name__}."
        )
    if bucket_bytes < 1:
        raise ArgumentError(
            f"Expected bucket_bytes= to be at least 1. Got bucket_bytes={bucket_bytes}."
            " 1 sends each gradient by itself, 2**40 all of them together."
        )
    return bucket_bytes


def buckets(tensors: Sequence[Gradient], bucket_bytes: int) -> list[list[int]]:
    """The places of tensors that travel together: a list for each message.

    From the last to the first, as the backward pass makes the gradients of variables.
    What has `bucket_bytes` travels by itself, since it would wait for what it is put
    together with; smaller ones are put together until they have as many. But those at
    the end do not wait: there are the numbers by which all sums are divided, which are
    known before the backward pass, and without which no variable can be updated. It
    depends on shapes and dtypes alone, so that it is the same on all replicas.
    """
    found: list[list[int]] = []
    small: list[int] = []
    collected = 0.0
    for i in reversed(range(len(tensors))):
        size = _bytes_of(tensors[i])
        is_large = size >= bucket_bytes
        if not is_large:
            small.append(i)
            collected += size
        if small and (collected >= bucket_bytes or (is_large and not found)):
            found.append(small)
            small, collected = [], 0.0
        if is_large:
            found.append([i])
    return [*found, small] if small else found


def of_one_dtype(
    tensors: Sequence[Gradient], bucket_bytes: int | None
) -> list[list[int]]:
    """The same where dtypes differ, which must not travel together.

    With None, all of a dtype do.
    """
    found = []
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        at = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        if bucket_bytes is None:
            found.append(at)
            continue
        cut = buckets([tensors[i] for i in at], bucket_bytes)
        found += [sorted(at[i] for i in places) for places in cut]
    return found


def _bytes_of(tensor: Gradient) -> float:
    """Without end where it is sparse, none where its shape is open, as of few numbers.

    Gradients have the shapes of their variables (`_formula.sparse.shaped`).
    """
    if isinstance(tensor, tf.IndexedSlices):
        return math.inf
    return int(tensor.shape.num_elements() or 0) * int(tensor.dtype.size)


def packed(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """One vector of all; a single tensor as it is."""
    if len(tensors) == 1:
        return tensors[0]
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)


def unpacked(vector: tf.Tensor, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """What `packed` made of `tensors`, in their shapes again."""
    if len(tensors) == 1:
        return [vector]
    parts = tf.split(vector, [tf.size(tensor) for tensor in tensors])
    return [
        tf.reshape(part, tf.shape(tensor))
        for part, tensor in zip(parts, tensors, strict=True)
    ]

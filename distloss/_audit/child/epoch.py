"""How many rows the batches of an epoch have, where one has to look at them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from distloss._audit.child.contract import is_sequence, leaves_of, rows_of

MOST_BATCHES = 64
SECONDS = 2.0


def rows_and_count_of(data: Any, first: Any, steps: int | None) -> tuple[int, int]:
    """Rows of a batch, and of all: 0 for what cannot be known in a moment.

    Args:
      data: a generator that gave the first batch, or a data set.
      first: that batch.
      steps: batches of an epoch; None if it ends with the data.

    Returns:
      rows of each batch, but for a last short one; 0 if that is not known.
      rows of all; -1 where batches are never short.
    """
    try:
        sizes = _sizes(data, first, steps)
    except Exception:  # a batch that training might never come to
        return 0, 0
    if not sizes or len({*sizes[:-1], sizes[0]}) > 1 or sizes[-1] > sizes[0]:
        return 0, 0
    return sizes[0], -1 if sizes[-1] == sizes[0] else sum(sizes)


def _sizes(data: Any, first: Any, steps: int | None) -> list[int]:
    """Rows of each batch of an epoch; none if it is too long."""
    started, sizes = time.monotonic(), [_rows(first)]
    others = _others(data)
    while steps is None or len(sizes) < steps:
        batch = next(others, None)
        if batch is None:
            return sizes
        sizes.append(_rows(batch))
        if len(sizes) > MOST_BATCHES or time.monotonic() - started > SECONDS:
            return []
    return sizes


def _rows(batch: Any) -> int:
    return rows_of([leaf for leaf in leaves_of(batch) if len(leaf.shape)])


def _others(data: Any) -> Iterator[Any]:
    """The batches after the first."""
    if is_sequence(data):
        return (data[index] for index in range(1, len(data)))
    if isinstance(data, tf.data.Dataset):
        return itertools.islice(iter(data), 1, None)
    return iter(data)

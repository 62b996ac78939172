"""Whether a data set gives batches of one size only, read off how it was made."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# What gives batches as it gets them; that a function of `map` keeps their rows is
# compared with the first batch.
_PASSES_ON = ("Prefetch", "Cache", "Options", "Repeat", "Shuffle", "Take", "Map")
_BATCHES = ("_BatchDataset", "_ParallelBatchDataset", "_PaddedBatchDataset")


def rows_of_all(data: Any) -> int:
    """How many rows each batch of a data set has; 0 if that is not known, or varies."""
    size, count = rows_and_count(data)
    return 0 if count > 0 and count % size else size


def rows_and_count(data: Any) -> tuple[int, int]:
    """Rows of a batch, and of all batches before these are repeated.

    Returns:
      rows of each batch, but for a last short one; 0 if that is not known.
      rows of all; -1 where these are without end, or batches never short.
    """
    if not isinstance(data, tf.data.Dataset):
        return 0, 0
    shapes = [s.shape for s in tf.nest.flatten(data.element_spec) if _is_dense(s)]
    if shapes and all(s.rank and s[0] is not None for s in shapes):
        return int(shapes[0][0]), -1
    return _rows_of_batches(data)


def _is_dense(spec: Any) -> bool:
    return isinstance(spec, tf.TensorSpec)


def _rows_of_batches(data: Any) -> tuple[int, int]:
    while type(data).__name__ not in _BATCHES:
        kind = type(data).__name__.strip("_").removeprefix("Parallel")
        inputs = data._inputs()
        if kind.removesuffix("Dataset") not in _PASSES_ON or len(inputs) != 1:
            return 0, 0
        (data,) = inputs
    size = int(tf.get_static_value(data._batch_size) or 0)
    (rows,) = data._inputs()
    count = int(rows.cardinality())
    is_known = count > 0 or count == tf.data.INFINITE_CARDINALITY
    return (size, count) if size and is_known else (0, 0)

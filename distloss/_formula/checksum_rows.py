"""How what a checksum is of is read: sums and norms of rows, and the weights of rows.

What they are for, and how exact they have to be, is derived in `checksums`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

WIDE = tf.float64

# Elements of float32 in a row. More of them are read faster, and need fewer weights to
# be drawn, but are rounded more often.
ROW_LENGTH = 32
_SEED = 0x5C5
_SPREAD = 0x9E3779B1  # odd, so that no two indices below 2^32 get the same word

# TensorFlow's CPU kernels share the work on larger tensors between threads, which takes
# longer than to read them: for these sizes several times as long.
_BY_ONE_THREAD = 1 << 16
_PIECES = 16


def _row_weights() -> Any:
    """Within a row. Of unequal magnitudes, so that exchanged elements show."""
    places = np.arange(ROW_LENGTH)
    magnitudes = 0.5 + 0.5 * (places * (np.sqrt(5.0) - 1.0) / 2.0 % 1.0)
    return np.where(places % 2, -magnitudes, magnitudes).astype(np.float32)


_ROW = _row_weights()
ROW_NORM = float(np.linalg.norm(_ROW))


def drawn(step: tf.Tensor, count: Any) -> tf.Tensor:
    """Weights of `count` rows for a step, the same on all devices."""
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[count],
        key=tf.cast(step, tf.uint64)[tf.newaxis],
        counter=tf.constant([_SEED, 0], tf.uint64),
        alg=1,  # Philox
        dtype=tf.uint32,
    )
    return _weights_of(words)


def _weights_of(words: tf.Tensor) -> tf.Tensor:
    """Bits made the sign and the fraction of float32 numbers from 1/2 to 1."""
    bits = tf.bitwise.bitwise_and(words, tf.constant(0x807FFFFF, tf.uint32))
    half = tf.constant(0x3F000000, tf.uint32)
    return tf.cast(tf.bitcast(tf.bitwise.bitwise_or(bits, half), tf.float32), WIDE)


def row_sums(values: tf.Tensor) -> tf.Tensor:
    """Float64 `[blocks, rows]`; where that is what they are in, elements themselves."""
    if values.dtype != tf.float32:
        return tf.cast(values, WIDE)
    weights = tf.constant(_ROW)
    pieces = [tf.reshape(piece, [-1, ROW_LENGTH]) for piece in _pieces(values)]
    rows = [tf.linalg.matvec(piece, weights) for piece in pieces]
    blocks = values.shape[0] or tf.shape(values)[0]
    joined = rows[0] if len(rows) == 1 else tf.concat(rows, 0)
    return tf.cast(tf.reshape(joined, [blocks, -1]), WIDE)


def norms(values: tf.Tensor) -> tf.Tensor:
    """Float64 `[blocks]`, of the elements of each."""
    if values.shape[0] != 1:
        wide = values if values.dtype == tf.float32 else tf.cast(values, WIDE)
        return tf.sqrt(tf.cast(tf.reduce_sum(tf.square(wide), 1), WIDE))
    is_float32 = values.dtype == tf.float32
    pieces = _pieces(values) if is_float32 else [tf.cast(values, WIDE)]
    halves = [tf.nn.l2_loss(piece) for piece in pieces]
    half = halves[0] if len(halves) == 1 else tf.add_n(halves)
    return tf.sqrt(tf.cast(2.0 * half, WIDE))[tf.newaxis]


def _pieces(values: tf.Tensor) -> list[tf.Tensor]:
    """Float32 elements without a copy, in pieces of whole rows, but for the last.

    Where their number is not known, as that of slices, they are read at once.
    """
    flat, most = tf.reshape(values, [-1]), _BY_ONE_THREAD
    size = flat.shape[0]
    if size is None or not most < size <= _PIECES * most or not _has_only_cpus():
        return [flat]
    full = (size - 1) // most
    return list(tf.split(flat, [most] * full + [size - full * most]))


def _has_only_cpus() -> bool:
    return all(one.device_type == "CPU" for one in tf.config.list_logical_devices())


def sum_of_slices(slices: tf.IndexedSlices) -> tf.Tensor:
    """S of slices in any order: their weights are those of their rows."""
    count = tf.shape(slices.values)[0]
    width = int(np.prod(slices.values.shape[1:]))
    if width % ROW_LENGTH:
        values = tf.cast(tf.reshape(slices.values, [count, width]), WIDE)
    else:
        values = tf.reshape(row_sums(slices.values), [count, -1])
    spread = tf.cast(slices.indices, tf.int64) * _SPREAD
    of_rows = _weights_of(tf.cast(spread, tf.uint32))
    within = tf.cos(1.0 + tf.cast(tf.range(tf.shape(values)[1]), WIDE))
    by_place = tf.linalg.matvec(values, of_rows, transpose_a=True)
    return tf.reduce_sum(by_place * within)[tf.newaxis]

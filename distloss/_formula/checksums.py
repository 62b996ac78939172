"""Numbers by which a sum over replicas is checked, which travel with what is summed.

Each replica sends a few numbers about what it sends, in a slot of its own where all
others have zeros, so that the sum brings each number to everybody as it is. What came
back is right if its own numbers are the sums of those that were sent.

What is summed is laid out in blocks of rows of 8 elements. With weights c of rows and b
within a row, of a magnitude between 1/2 and 1, the number of a block x is

    S(x) = sum_ij c_i b_j x_ij        so that        S(sum_r x_r) = sum_r S(x_r)

but for rounding. The signs of c are drawn anew for each step, the same on all replicas,
and independently of x. This is how far rounding may go:

- The sum itself: element e of N numbers takes N - 1 additions, each wrong by at most u
  times a partial sum: |error_e| <= (N - 1) u sum_r |x_re|, where u is the unit roundoff
  of the dtype (2^-24 for float32, 2^-8 for bfloat16). By the triangle inequality the
  norm of all errors of a block is at most (N - 1) u sum_r |x_r|.
- Numbers of float32 are added up in float32 within a row, which is wrong by at most
  2 * 8 u times the norm of the row, once where they are sent and once where they come
  back. From then on, and for all other dtypes from the start, float64 is used.
- Signs that are drawn at random keep errors from adding up, whatever these are: by
  Hoeffding's inequality |sum_i c_i E_i| exceeds D times the norm of E with a
  probability below 2 exp(-D^2 / 2), 3e-8 for D = 6. Rounding errors are rarely as large
  as their bounds, so that a false alarm is much less likely than that.

So a change of what is summed shows if it moves S by more than `tolerance` says: for one
element, by 2 * 6 * (2.2 (N - 1) u + 32 u') times the sum of the replicas' norms of its
block, where u' is 2^-24 for float32 and 0 for other dtypes. With 4 replicas whose
gradients are alike and blocks of 1000 elements that is 0.4 % of an element of ordinary
size in float32 (its highest bits, its exponent and its sign), and more than ordinary
elements in bfloat16 (the high bits of the exponent alone).

Squares are added up in the dtype itself for float32: elements above 1e19 are taken for
infinite ones, and what is smaller than 1e-19 is checked as if it were that large.

Reference: Hoeffding, Probability inequalities for sums of bounded random variables,
1963; algorithm-based fault tolerance, Huang and Abraham, 1984.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distloss._types import Gradient

BLOCKS = 16  # of what is summed in one dtype, at most
_PER_BLOCK = 64  # elements, at least
_DEVIATIONS = 6.0
_SEED = 0x5C5
_WIDE = tf.float64

# Within a row. Of unequal magnitudes, so that exchanged elements show.
_ROW = np.array([1.0, -0.9, 0.8, -0.7, 0.6, -0.95, 0.75, -0.55], np.float32)
_ROW_NORM = float(np.linalg.norm(_ROW))


class Group(NamedTuple):
    """What is checked together: dense tensors of a dtype, or one sparse gradient.

    Attributes:
      at: where its tensors are in what is summed.
      dtype: theirs.
      is_sparse: whether it is `tf.IndexedSlices`.
      blocks: how many numbers it has.
    """

    at: tuple[int, ...]
    dtype: tf.DType
    is_sparse: bool
    blocks: int


def groups_of(parts: Sequence[Sequence[Gradient]]) -> list[Group]:
    """The groups of the tensors of all `parts`, one after the other.

    Tensors of different parts, which may be of different magnitudes, are never in one:
    what is large would hide what happens to the small.
    """
    groups: list[Group] = []
    first = 0
    for part in parts:
        by_dtype: dict[tf.DType, list[int]] = {}
        for at, tensor in enumerate(part, first):
            if isinstance(tensor, tf.IndexedSlices):
                groups.append(Group((at,), tensor.dtype, True, 1))
            else:
                by_dtype.setdefault(tensor.dtype, []).append(at)
        for dtype, indices in by_dtype.items():
            sizes = [part[at - first].shape.num_elements() for at in indices]
            groups.append(Group(tuple(indices), dtype, False, _block_count(sizes)))
        first += len(part)
    return groups


def _block_count(sizes: list[int | None]) -> int:
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return BLOCKS
    return max(1, min(BLOCKS, sum(known) // _PER_BLOCK))


class Checksums(NamedTuple):
    """What is known of one group on one replica, or of its sum.

    Attributes:
      values: `[blocks, length]`, what was summed; of slices, their values `[1, n]`.
      sums: float64 `[blocks]`, S.
      norms: float64 `[blocks]`; of a sum None, for nobody needs them.
    """

    values: tf.Tensor
    sums: tf.Tensor
    norms: tf.Tensor | None


def checksums(
    group: Group, tensors: Sequence[Gradient], step: tf.Tensor, *, is_sum: bool
) -> Checksums:
    """The numbers of `group`, of which `tensors` holds all that is summed.

    Args:
      group: one of `groups_of`.
      tensors: what is summed, or the sums.
      step: int64 scalar, for which weights are drawn.
      is_sum: whether they are sums, whose norms are not computed.
    """
    chosen = [tensors[at] for at in group.at]
    if group.is_sparse:
        return _of_slices(chosen[0], is_sum)
    values = _in_blocks(group, chosen)
    rows = _row_sums(values)
    sums = tf.linalg.matvec(rows, _weights(tf.shape(rows)[1], step))
    return Checksums(values, sums, None if is_sum else _norms(values))


def _in_blocks(group: Group, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    sizes = [tensor.shape.num_elements() for tensor in tensors]
    if None in sizes:
        size: Any = tf.add_n([tf.size(tensor) for tensor in tensors])
    else:
        size = sum(sizes)
    padding = tf.zeros([-size % (group.blocks * len(_ROW))], group.dtype)
    flat = [tf.reshape(tensor, [-1]) for tensor in tensors]
    return tf.reshape(tf.concat([*flat, padding], 0), [group.blocks, -1])


def _row_sums(values: tf.Tensor) -> tf.Tensor:
    """Float64 `[blocks, rows]`; where that is what they are in, elements themselves."""
    if values.dtype != tf.float32:
        return tf.cast(values, _WIDE)
    blocks = values.shape[0]
    rows = tf.linalg.matvec(tf.reshape(values, [-1, len(_ROW)]), tf.constant(_ROW))
    return tf.cast(tf.reshape(rows, [blocks, -1]), _WIDE)


def _weights(count: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    seed = tf.stack([tf.cast(step, tf.int64), tf.constant(_SEED, tf.int64)])
    drawn = tf.random.stateless_uniform(
        [count], seed, -1.0, 1.0, dtype=_WIDE, alg="philox"
    )
    return 0.5 * (drawn + tf.sign(drawn))


def _norms(values: tf.Tensor) -> tf.Tensor:
    wide = values if values.dtype == tf.float32 else tf.cast(values, _WIDE)
    # A product of matrices, which makes no tensor of all squares.
    squares = tf.linalg.matmul(wide[:, tf.newaxis, :], wide[:, :, tf.newaxis])
    return tf.sqrt(tf.cast(tf.reshape(squares, [-1]), _WIDE))


def _of_slices(slices: tf.IndexedSlices, is_sum: bool) -> Checksums:
    """Those of slices in any order: their weights are those of their rows."""
    values = tf.cast(tf.reshape(slices.values, [tf.shape(slices.values)[0], -1]), _WIDE)
    within = tf.cos(1.0 + tf.cast(tf.range(tf.shape(values)[1]), _WIDE))
    of_rows = tf.cos(1.0 + tf.cast(slices.indices, _WIDE))
    sums = tf.reduce_sum(of_rows * tf.linalg.matvec(values, within))[tf.newaxis]
    norms = None if is_sum else tf.norm(values)[tf.newaxis]
    return Checksums(tf.reshape(slices.values, [1, -1]), sums, norms)


class Rounding(NamedTuple):
    """How what is summed is rounded.

    Attributes:
      dtype: in which it is sent and added up.
      roundings: float64 scalar or float, how often per element at most.
    """

    dtype: tf.DType
    roundings: Any


def tolerance(
    group: Group, norms: tf.Tensor, length: tf.Tensor, rounding: Rounding
) -> tf.Tensor:
    """How far S of the sum may be from the sum of all S: float64 `[blocks]`.

    As derived at the top of this file.

    Args:
      group: whose numbers they are.
      norms: float64 `[replicas, blocks]`.
      length: elements of a block.
      rounding: how its elements are rounded.
    """
    wide_length = tf.cast(length, _WIDE)
    if group.is_sparse:
        return _tolerance_of_slices(norms, wide_length, rounding)
    is_single = group.dtype == tf.float32
    # What a norm of squares that are no more than zeros may be.
    lost = 2.0**-63 if group.dtype == tf.float32 else 2.0**-511
    spread = tf.reduce_sum(norms + lost * tf.sqrt(wide_length), 0)
    roundings = tf.cast(rounding.roundings, _WIDE)
    of_row = _ROW_NORM if is_single else 1.0
    relative = of_row * roundings * unit_roundoff(rounding.dtype)
    if is_single:
        relative += 4.0 * len(_ROW) * unit_roundoff(tf.float32)
    # Sums of float64 are wrong by less than their length times its roundoff.
    relative += 2.0 * tf.sqrt(wide_length) * unit_roundoff(_WIDE)
    smallest = 2.0 * len(_ROW) * (roundings + 1.0) * _smallest_step(rounding.dtype)
    return _DEVIATIONS * (relative * spread + smallest * tf.sqrt(wide_length))


def _tolerance_of_slices(
    norms: tf.Tensor, length: tf.Tensor, rounding: Rounding
) -> tf.Tensor:
    """Slices come as they are; their weights are fixed, so all errors may add up."""
    roundings = tf.cast(rounding.roundings, _WIDE)
    relative = roundings * unit_roundoff(rounding.dtype)
    relative += 4.0 * length * unit_roundoff(_WIDE)
    return tf.reduce_sum(norms, 0) * tf.sqrt(length) * relative


def unit_roundoff(dtype: tf.DType) -> float:
    """The largest relative error of rounding to `dtype`."""
    if dtype == tf.bfloat16:  # of which NumPy knows nothing
        return 2.0**-8
    return float(np.finfo(dtype.as_numpy_dtype).eps) / 2


def _smallest_step(dtype: tf.DType) -> float:
    """The largest absolute error of rounding to zero, or to a number close to it."""
    if dtype == tf.float16:
        return 2.0**-24
    return float(np.finfo(np.float64).tiny) if dtype == tf.float64 else 2.0**-126


def bits_per_word(dtype: tf.DType) -> int:
    """How long integers may be that numbers of `dtype` hold, also when divided by N."""
    return 16 if dtype in (tf.float32, tf.float64) else 8


def words(numbers: tf.Tensor, bits: int) -> tf.Tensor:
    """Float64 numbers as integers of so many bits, in float32 `[n * 64 / bits]`.

    Small integers are exact in any dtype, whatever bits make the numbers.
    """
    unsigned = tf.uint16 if bits == 16 else tf.uint8
    return tf.cast(tf.reshape(tf.bitcast(numbers, unsigned), [-1]), tf.float32)


def numbers_of(received: tf.Tensor, bits: int) -> tf.Tensor:
    """What `words` were made of, float64 `[..., n]`; any numbers if they are wrong."""
    unsigned = tf.uint16 if bits == 16 else tf.uint8
    whole = tf.clip_by_value(tf.round(received), 0.0, 2.0**bits - 1.0)
    per_number = 64 // bits
    shape = tf.concat([tf.shape(whole)[:-1], [-1, per_number]], 0)
    return tf.bitcast(tf.cast(tf.reshape(whole, shape), unsigned), _WIDE)

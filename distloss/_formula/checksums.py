"""Numbers by which a sum over replicas is checked, which travel with what is summed.

Each replica sends a few numbers about what it sends, in a slot of its own where all
others have zeros, so that the sum brings each number to everybody as it is. What came
back is right if its own numbers are the sums of those that were sent.

What is summed is laid out in blocks of rows: of 32 elements in float32, of which
several are added up before anything is drawn, and of one element in other dtypes. With
weights c of rows and b within a row, of a magnitude between 1/2 and 1, the number of a
block x is

    S(x) = sum_ij c_i b_j x_ij        so that        S(sum_r x_r) = sum_r S(x_r)

but for rounding. The signs of c are drawn anew for each step, the same on all replicas,
and independently of x. This is how far rounding may go:

- The sum itself: element e of N numbers takes N - 1 additions, each wrong by at most u
  times a partial sum: |error_e| <= (N - 1) u sum_r |x_re|, where u is the unit roundoff
  of the dtype (2^-24 for float32, 2^-8 for bfloat16). By the triangle inequality the
  norm of all errors of a block is at most (N - 1) u sum_r |x_r|, and what b makes of
  the errors of rows has a norm at most |b| = 4.4 times as large.
- Numbers of float32 are added up in float32 within a row, once where they are sent and
  once where they come back. Where all products have one sign, their partial sums grow
  to 32, so that 32 rounding errors that are as often up as down come to 7 u times the
  norm of the row; the root mean square over rows is taken to be below 16 u. From then
  on, and for all other dtypes from the start, float64 is used.
- Signs that are drawn at random keep errors from adding up, whatever these are: by
  Hoeffding's inequality |sum_i c_i E_i| exceeds D times the norm of E with a
  probability below 2 exp(-D^2 / 2), 3e-8 for D = 6. Rounding errors are rarely as large
  as their bounds, so that a false alarm is much less likely than that.

So S may be off by 6 (4.4 (N - 1) u + 32 u') times the sum of the replicas' norms of a
block, where u' is 2^-24 for float32 and 0 for other dtypes. A change of one element
shows if it is larger than that, divided by its weight, and surely where it is 8 times
as large. This is the border for 4 replicas of like size, in blocks of 1000 elements, in
elements of ordinary size of one replica, and what it means for flipped bits:

    float64    1e-11     the exponent, the sign and the 36 highest bits of the fraction
    float32    0.002     the exponent, the sign and the 8 highest bits of the fraction
    float16    1         the highest bits of the exponent, of ordinary elements the sign
    bfloat16   9         the highest bits of the exponent

The border grows with the root of the elements of a block, which is a large tensor, or a
part of what small ones have together. A part that is missing, counts twice or is
another one shows in its slot, whatever the border. If a piece of it alone is, the
number of a block moves by about its norm there, which in bfloat16 is below the border
from about 8 replicas on.

Squares of float32 are added up in float32: where elements are above 1e19 nothing is
said about a block, and what is below 1e-19 is checked as if it were that large.

Reference: Hoeffding, Probability inequalities for sums of bounded random variables,
1963; algorithm-based fault tolerance, Huang and Abraham, 1984; Higham and Mary, A new
approach to probabilistic rounding error analysis, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distloss._formula.checksum_rows import (
    ROW_LENGTH,
    ROW_NORM,
    WIDE,
    norms,
    row_sums,
    sum_of_slices,
)
from distloss._types import Gradient

BLOCKS = 16  # of small tensors of one dtype, at most
_LARGE = 4096  # elements of a tensor that is a block by itself, and is not copied
_PER_BLOCK = 64  # elements, at least
_SINGLE = 8  # elements, each of which is its own number, such as denominators
_DEVIATIONS = 6.0
# How often u times its norm the sum of a row is off, as derived above.
_ROW_ERROR = 16.0


class Group(NamedTuple):
    """What is checked together: dense tensors of a dtype, or one sparse gradient.

    Attributes:
      at: where its tensors are in what is summed.
      dtype: theirs.
      blocks: how many numbers it has.
      is_sparse: whether it is `tf.IndexedSlices`.
      is_single: whether each element is its own number.
    """

    at: tuple[int, ...]
    dtype: tf.DType
    blocks: int
    is_sparse: bool = False
    is_single: bool = False


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
                groups.append(Group((at,), tensor.dtype, 1, is_sparse=True))
            else:
                by_dtype.setdefault(tensor.dtype, []).append(at)
        for dtype, indices in by_dtype.items():
            sizes = {at: part[at - first].shape.num_elements() for at in indices}
            large = [at for at, size in sizes.items() if _is_large(size)]
            small = {at: size for at, size in sizes.items() if at not in large}
            groups += [Group((at,), dtype, 1) for at in large]
            if small:
                groups.append(_group_of(tuple(small), dtype, [*small.values()]))
        first += len(part)
    return groups


def _is_large(size: int | None) -> bool:
    return size is not None and size >= _LARGE and size % ROW_LENGTH == 0


def _group_of(
    at: tuple[int, ...], dtype: tf.DType, sizes: Sequence[int | None]
) -> Group:
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return Group(at, dtype, BLOCKS)
    size = sum(known)
    if 0 < size <= _SINGLE:
        return Group(at, dtype, size, is_single=True)
    return Group(at, dtype, max(1, min(BLOCKS, size // _PER_BLOCK)))


class Checksums(NamedTuple):
    """What is known of one group on one replica, or of its sum.

    Attributes:
      values: `[blocks, length]`, what was summed; of slices, their values `[1, n]`.
      sums: float64 `[blocks]`, S.
      norms: float64 `[blocks]`; of a sum None, for nobody needs them.
      weights: float64, of rows; None where they are fixed.
    """

    values: tf.Tensor
    sums: tf.Tensor
    norms: tf.Tensor | None
    weights: tf.Tensor | None


def of_parts(
    groups: Sequence[Group],
    tensors: Sequence[Gradient],
    draw: Callable[[Any], tf.Tensor],
) -> list[Checksums]:
    """The numbers of what a replica sends, of each group.

    Args:
      groups: of `groups_of`.
      tensors: all that is summed.
      draw: gives weights of so many rows.
    """
    values = [_values(group, tensors) for group in groups]
    rows = {
        at: row_sums(values[at])
        for at, group in enumerate(groups)
        if not (group.is_sparse or group.is_single)
    }
    counts = {at: one.shape[1] or tf.shape(one)[1] for at, one in rows.items()}
    weights = _of_counts(counts, draw)
    found = []
    for at, group in enumerate(groups):
        if at in rows:
            sums = tf.linalg.matvec(rows[at], weights[at])
        else:
            sums = _sums_of_fixed_weights(group, tensors, values[at])
        own = tf.abs(sums) if group.is_single else norms(values[at])
        found.append(Checksums(values[at], sums, own, weights.get(at)))
    return found


def _of_counts(
    counts: dict[int, Any], draw: Callable[[Any], tf.Tensor]
) -> dict[int, tf.Tensor]:
    """Weights of so many rows each: the first of those that are drawn once for all.

    But for counts that are known in the step only, which have weights of their own.
    """
    known = [n for n in counts.values() if isinstance(n, int)]
    shared = draw(max(known)) if known else None
    return {
        at: shared[:n] if shared is not None and isinstance(n, int) else draw(n)
        for at, n in counts.items()
    }


def _sums_of_fixed_weights(
    group: Group, tensors: Sequence[Gradient], values: tf.Tensor
) -> tf.Tensor:
    if group.is_sparse:
        return sum_of_slices(tensors[group.at[0]])
    return tf.cast(values[:, 0], WIDE)


def of_sums(group: Group, tensors: Sequence[Gradient], sent: Checksums) -> Checksums:
    """The numbers of what came back, by the weights of what was `sent`."""
    values = _values(group, tensors)
    if sent.weights is None:
        sums = _sums_of_fixed_weights(group, tensors, values)
    else:
        sums = tf.linalg.matvec(row_sums(values), sent.weights)
    return Checksums(values, sums, None, sent.weights)


def _values(group: Group, tensors: Sequence[Gradient]) -> tf.Tensor:
    chosen = [tensors[at] for at in group.at]
    if group.is_sparse:
        return tf.reshape(chosen[0].values, [1, -1])
    flat = [tf.reshape(tensor, [-1]) for tensor in chosen]
    sizes = [tensor.shape.num_elements() for tensor in chosen]
    size: Any = sum(sizes) if None not in sizes else tf.add_n([*map(tf.size, flat)])
    row = 1 if group.is_single else ROW_LENGTH
    padding = -size % (group.blocks * row)
    if not isinstance(padding, int) or padding:
        flat.append(tf.zeros([padding], group.dtype))
    joined = flat[0] if len(flat) == 1 else tf.concat(flat, 0)
    return tf.reshape(joined, [group.blocks, -1])


class Rounding(NamedTuple):
    """How what is summed is rounded.

    Attributes:
      dtype: in which it is sent and added up.
      roundings: float64 scalar, how often per element at most.
    """

    dtype: tf.DType
    roundings: tf.Tensor


class Tolerance(NamedTuple):
    """How far S of a sum may be off: `relative` to the sum of norms, and `absolute`.

    Float64 scalars, as derived at the top of this file.
    """

    relative: tf.Tensor
    absolute: tf.Tensor


def tolerance(group: Group, length: tf.Tensor, rounding: Rounding) -> Tolerance:
    """How far S of a block of `length` elements may be off."""
    wide_length = tf.cast(length, WIDE)
    relative = rounding.roundings * unit_roundoff(rounding.dtype)
    smallest = smallest_step(rounding.dtype) * (rounding.roundings + 1.0)
    exact = unit_roundoff(tf.float64)
    if group.is_single:
        return Tolerance(relative + 4.0 * exact, smallest)
    root = tf.sqrt(wide_length)
    if group.dtype == tf.float32:
        own = 2.0 * _ROW_ERROR * unit_roundoff(tf.float32)  # sent, and come back
        relative = ROW_NORM * relative + own
    if group.is_sparse:  # weights are fixed, so all errors may add up
        return Tolerance(root * (relative + 4.0 * wide_length * exact), root * smallest)
    # Sums of float64 are wrong by less than their length times its roundoff.
    relative += 2.0 * root * exact
    # A norm of squares that are no more than zeros may be so large.
    lost = root * (2.0**-63 if group.dtype == tf.float32 else 2.0**-511)
    absolute = relative * lost * (rounding.roundings + 1.0)
    absolute += 2.0 * ROW_LENGTH * smallest * root
    return Tolerance(_DEVIATIONS * relative, _DEVIATIONS * absolute)


def unit_roundoff(dtype: tf.DType) -> float:
    """The largest relative error of rounding to `dtype`."""
    if dtype == tf.bfloat16:  # of which NumPy knows nothing
        return 2.0**-8
    return float(np.finfo(dtype.as_numpy_dtype).eps) / 2


def smallest_step(dtype: tf.DType) -> float:
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
    return tf.bitcast(tf.cast(tf.reshape(whole, shape), unsigned), WIDE)

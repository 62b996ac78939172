"""A sum over replicas, with the numbers by which it is checked: see `checksums`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from distloss._errors import ContextError
from distloss._formula import checksums
from distloss._formula.checksum_rows import drawn
from distloss._formula.checksums import Checksums, Group, Rounding
from distloss._formula.sparse import is_compiled
from distloss._types import Gradient
from distloss.replicas import Replicas


class Layout(NamedTuple):
    """What evidence is about.

    Attributes:
      groups: what is checked together.
      bits: of the words in which numbers travel.
      dtypes: in which each group is sent.
      losses: how many losses of rows evidence has.
    """

    groups: tuple[Group, ...]
    bits: int
    dtypes: tuple[tf.DType, ...]
    losses: int

    @property
    def blocks(self) -> int:
        """Of all groups."""
        return sum(group.blocks for group in self.groups)


class Evidence(NamedTuple):
    """What one replica knows of a sum: tensors, or what they came to.

    Attributes:
      index: its place among the replicas, int scalar.
      step: int scalar, the number of the update.
      sent: its own numbers, float64 `[numbers]`.
      received: words of all replicas, float32 `[replicas, words]`.
      numbers: what these say, float64 `[replicas, numbers]`.
      sums: S of what came back, float64, of all blocks one after the other.
      tolerances: how far these may be off.
      local: per group, what was sent.
      summed: per group, what came back.
      losses: element losses of this replica's rows, a tensor per loss.
    """

    index: Any
    step: Any
    sent: Any
    received: Any
    numbers: Any
    sums: Any
    tolerances: Any
    local: list[Any]
    summed: list[Any]
    losses: list[Any]

    def flat(self) -> list[Any]:
        """All of them in one list."""
        *single, local, summed, losses = self
        return [*single, *local, *summed, *losses]

    @classmethod
    def from_flat(cls, values: Sequence[Any], layout: Layout) -> Evidence:
        """What `flat` made."""
        count = len(layout.groups)
        rest = list(values[7:])
        lists = rest[:count], rest[count : 2 * count], rest[2 * count :]
        return cls._make([*values[:7], *lists])


class CheckedSums(NamedTuple):
    """Sums over replicas.

    Attributes:
      parts: the sums, as what was summed.
      is_clean: boolean scalar: whether there is nothing to look at.
      evidence: what there is to look at otherwise.
      layout: what that is about.
    """

    parts: list[list[Gradient]]
    is_clean: tf.Tensor
    evidence: Evidence
    layout: Layout


def checked_sums(
    replicas: Replicas,
    parts: Sequence[Sequence[Gradient]],
    name: str,
    step: tf.Tensor,
    losses: Sequence[tf.Tensor] = (),
) -> CheckedSums:
    """`replicas.sum_gradients` of all `parts` together, and whether it was right.

    Args:
      replicas: who shares the batch.
      parts: local gradients, of similar magnitude within a part.
      name: whose gradients, the same word on all replicas.
      step: int64 scalar above 0, the same on all replicas, another one for each sum.
      losses: element losses of this replica's rows.

    Raises:
      ContextError: XLA compiles the step.
    """
    _refuse_compiled()
    local = [tensor for part in parts for tensor in part]
    groups = checksums.groups_of(parts)
    draw = functools.partial(drawn, step)
    before = checksums.of_parts(groups, local, draw)
    sent = _numbers(step, before)
    wire = _wire_of(parts)
    bits = checksums.bits_per_word(replicas.sent_as(wire))
    slots = _slots(checksums.words(sent, bits), replicas)
    # First, and so sent last (replicas/buckets.py): they are known last.
    received, *sums = replicas.sum_gradients([tf.cast(slots, wire), *local], name)
    received = tf.cast(replicas.as_sum(received), tf.float32)
    received = tf.reshape(received, [replicas.count_as(tf.int32), -1])
    after = [
        checksums.of_sums(group, sums, one)
        for group, one in zip(groups, before, strict=True)
    ]
    layout = Layout(
        tuple(groups),
        bits,
        tuple(_sent_as(replicas, group) for group in groups),
        len(losses),
    )
    numbers = checksums.numbers_of(received, bits)
    evidence = Evidence(
        replicas.index(),
        step,
        sent,
        received,
        numbers,
        tf.concat([replicas.as_sum(x.sums) for x in after], 0),
        _tolerances(replicas, layout, numbers, after),
        [x.values for x in before],
        [x.values for x in after],
        list(losses),
    )
    return CheckedSums(
        in_parts(sums, parts), _is_clean(evidence, layout), evidence, layout
    )


def _refuse_compiled() -> None:
    if is_compiled():
        raise ContextError(
            "Expected a step that XLA does not compile, to check its sums: what was "
            "wrong with one is looked at in Python. Got one that it compiles. Leave "
            "out check_sums=, or jit_compile= (model.compile(..., jit_compile=False))."
        )


def _sent_as(replicas: Replicas, group: Group) -> tf.DType:
    """In which dtype: slices are sent whole."""
    return group.dtype if group.is_sparse else replicas.sent_as(group.dtype)


def _wire_of(parts: Sequence[Sequence[Gradient]]) -> tf.DType:
    """The dtype of dense tensors among which numbers travel: of the last that there is.

    Where all are sparse there is none, and numbers take a collective of their own.
    """
    dense = [
        tensor.dtype
        for part in parts
        for tensor in part
        if not isinstance(tensor, tf.IndexedSlices)
    ]
    return dense[-1] if dense else tf.float32


def _numbers(step: tf.Tensor, found: Sequence[Checksums]) -> tf.Tensor:
    """The step, S of all blocks of all groups, and the norms of all."""
    own = tf.cast(step, tf.float64)[tf.newaxis]
    sums, norms = [one.sums for one in found], [one.norms for one in found]
    return tf.concat([own, *sums, *norms], 0)


def _slots(words: tf.Tensor, replicas: Replicas) -> tf.Tensor:
    """`words` in this replica's slot, zeros in all others."""
    own = tf.one_hot(replicas.index(), replicas.count_as(tf.int32))
    return tf.reshape(own[:, tf.newaxis] * words[tf.newaxis, :], [-1])


def _tolerances(
    replicas: Replicas,
    layout: Layout,
    numbers: tf.Tensor,
    after: Sequence[Checksums],
) -> tf.Tensor:
    additions = replicas.count_as(tf.float64) - 1.0
    if not replicas.sums_are_exact:  # also rounded to be sent, and when divided
        additions += 3.0
    relative, absolute = [], []
    for group, dtype, one in zip(layout.groups, layout.dtypes, after, strict=True):
        is_copied = group.is_sparse and replicas.sums_are_exact
        rounding = Rounding(dtype, 0.0 * additions if is_copied else additions)
        length = one.values.shape[1] or tf.shape(one.values)[1]
        found = checksums.tolerance(group, length, rounding)
        relative.append(tf.fill([group.blocks], found.relative))
        absolute.append(tf.fill([group.blocks], found.absolute))
    norms = tf.reduce_sum(numbers[:, 1 + layout.blocks :], 0)
    return tf.concat(relative, 0) * norms + tf.concat(absolute, 0)


def of_group(numbers: Any, layout: Layout, at: int) -> tuple[Any, Any]:
    """S and norms of group `at` of all replicas, `[replicas, blocks]` each."""
    first = 1 + sum(group.blocks for group in layout.groups[:at])
    last, norms = first + layout.groups[at].blocks, layout.blocks
    return numbers[:, first:last], numbers[:, norms + first : norms + last]


def expected_sums(numbers: Any, layout: Layout) -> Any:
    """The sums of all S over replicas, of all blocks one after the other."""
    return tf.reduce_sum(numbers[:, 1 : 1 + layout.blocks], 0)


def _is_clean(evidence: Evidence, layout: Layout) -> tf.Tensor:
    received, numbers = evidence.received, evidence.numbers
    sent = checksums.words(evidence.sent, layout.bits)
    off = tf.abs(evidence.sums - expected_sums(numbers, layout))
    # All of these are False where one of them is NaN.
    are_right = [
        tf.round(received[evidence.index]) == sent,
        numbers[:, 0] == tf.cast(evidence.step, tf.float64),
        off <= evidence.tolerances,
        evidence.tolerances < evidence.tolerances.dtype.max,
    ]
    return tf.reduce_all(tf.concat(are_right, 0))


def in_parts(
    sums: list[Gradient], parts: Sequence[Sequence[Gradient]]
) -> list[list[Gradient]]:
    """`sums` of what all `parts` hold, one after the other, as parts again."""
    found, rest = [], sums
    for part in parts:
        found.append(rest[: len(part)])
        rest = rest[len(part) :]
    return found


def looked_at(
    replicas: Replicas,
    checked: CheckedSums,
    look: Callable[[list[Evidence]], bool],
) -> tf.Tensor:
    """Whether the update may be made, on all replicas of this process.

    Args:
      replicas: who shares the batch.
      checked: sums on this replica.
      look: gets the evidence of all replicas of this process, in NumPy, where one of
        them is not clean; returns whether the update may be made, or raises.
    """
    layout = checked.layout

    def of_all(found: list[list[tf.Tensor]]) -> tf.Tensor:
        flags = [flag for flag, *_ in found]
        values = [value for _, *one in found for value in one]
        size = len(found[0]) - 1

        def looks(*arrays: Any) -> bool:
            rows = [arrays[i : i + size] for i in range(0, len(arrays), size)]
            return look([Evidence.from_flat(row, layout) for row in rows])

        if tf.executing_eagerly():
            if all(flags):
                return tf.constant(True)
            return tf.constant(looks(*(value.numpy() for value in values)))

        def called() -> tf.Tensor:
            with tf.device("CPU:0"):
                may = tf.numpy_function(looks, values, tf.bool)
            return tf.ensure_shape(may, [])

        are_clean = tf.reduce_all(tf.stack(flags))
        return tf.cond(are_clean, lambda: tf.constant(True), called)

    return replicas.together(of_all, [checked.is_clean, *checked.evidence.flat()])

"""What was wrong with a sum over replicas, in words: outside the hot path, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._formula import checksums
from distloss._formula.checked_sums import Evidence, expected_sums, of_group
from distloss.optimizers.sum_known import (
    Block,
    Known,
    Verdict,
    elements_of,
    names_at,
)
from distloss.optimizers.sum_nonfinite import not_finite

_Array = Any  # of NumPy


def verdict_of(found: Sequence[Evidence], known: Known) -> Verdict | None:
    """What the evidence says; None where nothing is wrong."""
    with np.errstate(all="ignore"):  # what is wrong may be NaN, and beyond any dtype
        for judge in (_wrong_slots, _wrong_sums, not_finite):
            verdict = judge(found, known)
            if verdict is not None:
                return verdict
    return None


# -- what is wrong with the numbers themselves


def _wrong_slots(found: Sequence[Evidence], known: Known) -> Verdict | None:
    """A whole part that is missing, that counts twice or that is of another step."""
    wrong = {int(one.index): _problems(one, known.layout.bits) for one in found}
    receivers = tuple(index for index, problems in wrong.items() if problems)
    if not receivers:
        return None
    names = tuple(name for name in known.names if name)
    problems = wrong[receivers[0]]
    if len(problems) > 1:  # so that it is no part which is wrong, but what came
        [kind, *others] = {problem.partition("}")[2] for problem in problems.values()}
        same = f"all parts{kind.replace(' is ', ' are ')}"
        cause = "the numbers that came with it are no numbers" if others else same
        return Verdict(True, cause, receivers, names, receivers)
    [(sender, problem)] = problems.items()
    return Verdict(True, problem, (sender,), names, receivers)


def _problems(one: Evidence, bits: int) -> dict[int, str]:
    """What is wrong with what came of each replica, where anything is."""
    found = {i: _problem_of_slot(one, i, bits) for i in range(len(one.received))}
    return {index: problem for index, problem in found.items() if problem}


def _problem_of_slot(one: Evidence, index: int, bits: int) -> str:
    words, step = one.received[index], float(one.step)
    if not words.any():
        return f"the part of {{{index}}} is missing"
    for times in (2, 3, 4):
        if _step_in(words / times, bits) == step and not (words % times).any():
            return f"the part of {{{index}}} was counted {times} times"
    came = _step_in(words, bits)
    if came != step:
        when = f"of step {came:.0f}" if 0 < came < step else "of no step"
        return f"the part of {{{index}}} is {when}"
    is_own = index == int(one.index)
    if is_own and one.numbers[index].tobytes() != one.sent.tobytes():
        return f"the part of {{{index}}} is not the one that it sent"
    return ""


def _step_in(words: _Array, bits: int) -> float:
    first = words[: 64 // bits]
    return float(checksums.numbers_of(tf.constant(first), bits)[0])


# -- what is wrong with sums


def _wrong_sums(found: Sequence[Evidence], known: Known) -> Verdict | None:
    wrong = {int(one.index): list(_wrong_blocks(one, known)) for one in found}
    wrong = {index: blocks for index, blocks in wrong.items() if blocks}
    if not wrong:
        return None
    receivers = tuple(wrong)
    one = next(x for x in found if int(x.index) == receivers[0])
    blocks = wrong[receivers[0]]
    variables = _variables_of(found, one, blocks, known)
    sender = _sender_of(one, blocks, known)
    if sender is None:
        cause = _change(found, one, blocks, known)
        return Verdict(True, cause, receivers, variables, receivers)
    index, problem = sender
    cause = f"the part of {{{index}}} {problem}"
    return Verdict(True, cause, (index,), variables, receivers)


def _wrong_blocks(one: Evidence, known: Known) -> Iterator[Block]:
    off, tolerances = _off(one, known), one.tolerances
    first = 0
    for at, group in enumerate(known.layout.groups):
        for block in range(group.blocks):
            is_right = abs(off[first + block]) <= tolerances[first + block]
            is_finite = np.isfinite(one.summed[at][block]).all()
            if not (is_right or (not is_finite and _may_not_be(one, at, block, known))):
                yield Block(at, block)
        first += group.blocks


def _off(one: Evidence, known: Known) -> _Array:
    """By how much S of what came back is not that of what was sent, of all blocks."""
    return one.sums - expected_sums(one.numbers, known.layout).numpy()


def _may_not_be(one: Evidence, group: int, block: int, known: Known) -> bool:
    """Whether a sum may not be finite: what was sent is not, or is very large."""
    sums, norms = of_group(one.numbers, known.layout, group)
    largest = float(known.layout.dtypes[group].max)
    is_large = norms[:, block].sum() >= largest / 2
    return bool(is_large or not np.isfinite(sums[:, block]).all())


def _sender_of(
    one: Evidence, blocks: Sequence[Block], known: Known
) -> tuple[int, str] | None:
    """The replica whose part explains all that is wrong, and what happened to it."""
    for index in range(len(one.numbers)):
        for times, problem in ((-1, "is missing"), (1, "was counted 2 times")):
            chances = [_chance(one, b, times, index, known) for b in blocks]
            if np.prod(chances) < _CHANCE:
                return index, problem
    return None


# Below which it is no chance that a part of a replica explains what is wrong.
_CHANCE = 1e-3


def _chance(one: Evidence, block: Block, times: int, index: int, known: Known) -> float:
    """How likely a block is by chance as if `times` the part of a replica were added.

    Infinity where it is not.
    """
    at = block.at + sum(g.blocks for g in known.layout.groups[: block.group])
    sums, _ = of_group(one.numbers, known.layout, block.group)
    part, tolerance = times * sums[index, block.at], one.tolerances[at]
    if not abs(_off(one, known)[at] - part) <= tolerance:
        return np.inf
    return float(min(1.0, tolerance / abs(part)))


def _variables_of(
    found: Sequence[Evidence], one: Evidence, blocks: Sequence[Block], known: Known
) -> tuple[str, ...]:
    """Those that elements tell where all replicas are here, or else those of blocks."""
    names: list[str] = []
    for group in sorted({block.group for block in blocks}):
        at = _wrong_elements(found, one, group, known)
        if at is None or not len(at):
            at = elements_of(one, [b for b in blocks if b.group == group])
        names += names_at(known, group, at)
    return tuple(dict.fromkeys(names))


def _wrong_elements(
    found: Sequence[Evidence], one: Evidence, group: int, known: Known
) -> _Array | None:
    """Where elements of the sum are wrong; None where parts of it are elsewhere."""
    if not known.is_everybody or known.layout.groups[group].is_sparse:
        return None
    exact, bound = _exact(found, group, known)
    got = one.summed[group].ravel().astype(np.float64)
    return np.flatnonzero(~(np.abs(got - exact) <= bound))


def _exact(
    found: Sequence[Evidence], group: int, known: Known
) -> tuple[_Array, _Array]:
    """The sum in float64, and how far rounding may go."""
    parts = [x.local[group].ravel().astype(np.float64) for x in found]
    dtype = known.layout.dtypes[group]
    relative = len(parts) * checksums.unit_roundoff(dtype)
    exact, magnitude = sum(parts), sum(np.abs(part) for part in parts)
    return exact, relative * magnitude + len(parts) * checksums.smallest_step(dtype)


def _change(
    found: Sequence[Evidence], one: Evidence, blocks: Sequence[Block], known: Known
) -> str:
    group = blocks[0].group
    got = one.summed[group].ravel().astype(np.float64)
    if any(not np.isfinite(one.summed[b.group][b.at]).all() for b in blocks):
        return "finite on all replicas, not finite after the sum: the collective"
    at = _wrong_elements(found, one, group, known)
    if at is None or not len(at):
        return "it came back other than it was sent"
    exact, _ = _exact(found, group, known)
    if len(at) == 1:
        return f"1 value is {got[at[0]]:.6g}, of parts whose sum is {exact[at[0]]:.6g}"
    close = np.allclose(np.sort(got[at]), np.sort(exact[at]), rtol=1e-2)
    what = "are in other places" if close else "are wrong"
    return f"{len(at):,} values {what}"

"""What was wrong with a sum over replicas, in words: outside the hot path, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distloss._formula import checksums
from distloss._formula.checked_sums import Evidence, Layout, expected_sums, of_group
from distloss._formula.checksums import Group

_Array = Any  # of NumPy


class Known(NamedTuple):
    """What evidence is judged by.

    Attributes:
      layout: what the evidence is about.
      names: of each tensor that was summed; "" for what is no gradient.
      sizes: elements of each.
      is_everybody: whether the evidence is that of all replicas.
    """

    layout: Layout
    names: Sequence[str]
    sizes: Sequence[int]
    is_everybody: bool


class Verdict(NamedTuple):
    """What happened.

    Attributes:
      is_corrupted: whether a sum is not that of what was sent; else it is that of what
        is not finite.
      cause: what, as the end of a sentence.
      replicas: whose part is wrong; else who received a wrong sum, or sent what is not
        finite.
      variables: the names of those whose gradients are affected.
    """

    is_corrupted: bool
    cause: str
    replicas: tuple[int, ...]
    variables: tuple[str, ...]


def verdict_of(found: Sequence[Evidence], known: Known) -> Verdict | None:
    """What the evidence says; None where nothing is wrong."""
    for judge in (_wrong_slots, _wrong_sums, _not_finite):
        verdict = judge(found, known)
        if verdict is not None:
            return verdict
    return None


# -- what is wrong with the numbers themselves


def _wrong_slots(found: Sequence[Evidence], known: Known) -> Verdict | None:
    """A whole part that is missing, that counts twice or that is of another step."""
    for one in found:
        for index in range(len(one.received)):
            problem = _problem_of_slot(one, index, known.layout.bits)
            if problem:
                names = tuple(name for name in known.names if name)
                return Verdict(True, problem, (index,), names)
    return None


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


class _Block(NamedTuple):
    """A block whose sum is not as expected: its group, and its place in that."""

    group: int
    at: int


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
    if sender is not None:
        index, problem = sender
        return Verdict(True, f"the part of {{{index}}} {problem}", (index,), variables)
    return Verdict(True, _change(found, one, blocks, known), receivers, variables)


def _wrong_blocks(one: Evidence, known: Known) -> Iterator[_Block]:
    off, tolerances = _off(one, known), one.tolerances
    first = 0
    for at, group in enumerate(known.layout.groups):
        for block in range(group.blocks):
            is_right = abs(off[first + block]) <= tolerances[first + block]
            is_finite = np.isfinite(one.summed[at][block]).all()
            if not (is_right or (not is_finite and _may_not_be(one, at, block, known))):
                yield _Block(at, block)
        first += group.blocks


def _off(one: Evidence, known: Known) -> _Array:
    """By how much S of what came back is not that of what was sent, of all blocks."""
    with np.errstate(invalid="ignore"):
        return one.sums - expected_sums(one.numbers, known.layout).numpy()


def _may_not_be(one: Evidence, group: int, block: int, known: Known) -> bool:
    """Whether a sum may not be finite: what was sent is not, or is very large."""
    sums, norms = of_group(one.numbers, known.layout, group)
    largest = float(known.layout.dtypes[group].max)
    is_large = norms[:, block].sum() >= largest / 2
    return bool(is_large or not np.isfinite(sums[:, block]).all())


def _sender_of(
    one: Evidence, blocks: Sequence[_Block], known: Known
) -> tuple[int, str] | None:
    """The replica whose part explains all that is wrong, and what happened to it."""
    for index in range(len(one.numbers)):
        for times, problem in ((-1, "is missing"), (1, "was counted 2 times")):
            if all(_explains(one, b, index, times, known) for b in blocks):
                return index, problem
    return None


def _explains(
    one: Evidence, block: _Block, index: int, times: int, known: Known
) -> bool:
    at = block.at + sum(g.blocks for g in known.layout.groups[: block.group])
    sums, _ = of_group(one.numbers, known.layout, block.group)
    part = times * sums[index, block.at]
    return bool(abs(_off(one, known)[at] - part) <= one.tolerances[at])


def _variables_of(
    found: Sequence[Evidence], one: Evidence, blocks: Sequence[_Block], known: Known
) -> tuple[str, ...]:
    """Those that elements tell where all replicas are here, or else those of blocks."""
    names: list[str] = []
    for group in sorted({block.group for block in blocks}):
        at = _wrong_elements(found, one, group, known)
        if at is None or not len(at):
            at = _elements_of(one, [b for b in blocks if b.group == group])
        names += _names_at(known, group, at)
    return tuple(dict.fromkeys(names))


def _elements_of(one: Evidence, blocks: Sequence[_Block]) -> _Array:
    length = one.summed[blocks[0].group].shape[1]
    return np.concatenate(
        [np.arange(b.at * length, (b.at + 1) * length) for b in blocks]
    )


def _names_at(known: Known, group: int, at: _Array) -> list[str]:
    """The names of tensors of which these are elements, one after the other."""
    indices = known.layout.groups[group].at
    edges = np.cumsum([known.sizes[i] for i in indices])
    if known.layout.groups[group].is_sparse:
        return [known.names[indices[0]]]
    inside = np.unique(np.searchsorted(edges, at[at < edges[-1]], side="right"))
    return [known.names[indices[i]] or "the loss and its weight" for i in inside]


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
    with np.errstate(invalid="ignore", over="ignore"):
        exact, magnitude = sum(parts), sum(np.abs(part) for part in parts)
    return exact, relative * magnitude + len(parts) * 2.0**-126


def _change(
    found: Sequence[Evidence], one: Evidence, blocks: Sequence[_Block], known: Known
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


# -- what is not finite


def _not_finite(found: Sequence[Evidence], known: Known) -> Verdict | None:
    one = found[0]
    senders = {
        index
        for at in range(len(known.layout.groups))
        for index in _senders_not_finite(one, at, known)
        if not _is_known_finite(found, index)
    }
    if not senders:
        return _overflow(found, known)
    index = min(senders)
    here = next((x for x in found if int(x.index) == index), None)
    variables: tuple[str, ...] = ()
    if here is None:
        blocks = _blocks_not_finite(one, index, known)
        variables = _variables_of([], one, blocks, known)
        cause = f"not finite on {{{index}}} before the sum, in {_listed(variables)}"
    else:
        variables, place = _first_not_finite(here, known)
        cause = f"not finite on {{{index}}} before the sum{place}{_loss_of_row(here)}"
    return Verdict(False, cause, tuple(sorted(senders)), variables)


def _senders_not_finite(one: Evidence, group: int, known: Known) -> list[int]:
    sums, _ = of_group(one.numbers, known.layout, group)
    return list(map(int, np.flatnonzero(~np.isfinite(sums).all(axis=1))))


def _is_known_finite(found: Sequence[Evidence], index: int) -> bool:
    """Whether the numbers of a replica are not finite, but what it sent is."""
    here = [x for x in found if int(x.index) == index]
    return bool(here) and all(np.isfinite(x).all() for x in here[0].local)


def _blocks_not_finite(one: Evidence, index: int, known: Known) -> list[_Block]:
    return [
        _Block(at, block)
        for at, group in enumerate(known.layout.groups)
        for block in range(group.blocks)
        if not np.isfinite(of_group(one.numbers, known.layout, at)[0][index, block])
    ]


def _first_not_finite(here: Evidence, known: Known) -> tuple[tuple[str, ...], str]:
    """The variables, and where the first of them is not finite."""
    places = [
        place
        for at, group in enumerate(known.layout.groups)
        for place in _places_not_finite(group, here.local[at], known)
    ]
    places = [place for place in places if place[0]]
    if not places:
        return (), ", in the loss"
    name, bad, size = places[0]
    return tuple(
        p[0] for p in places
    ), f", first in `{name}` ({bad:,} of {size:,} values)"


def _places_not_finite(
    group: Group, values: _Array, known: Known
) -> Iterator[tuple[str, int, int]]:
    """Name, how many values are not finite, and how many there are."""
    bad = ~np.isfinite(values.ravel())
    first = 0
    for at in group.at:
        size = bad.size if group.is_sparse else known.sizes[at]
        count = int(bad[first : first + size].sum())
        if count:
            yield known.names[at], count, size
        first += size


def _loss_of_row(here: Evidence) -> str:
    for values in here.losses:
        rows = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            row = rows[bad[0]]
            value = row[~np.isfinite(row)][0]
            return f"; the loss of its row {bad[0]} is {value}"
    return "; the losses of its rows are finite" if here.losses else ""


def _overflow(found: Sequence[Evidence], known: Known) -> Verdict | None:
    one = found[0]
    for at in range(len(known.layout.groups)):
        bad = ~np.isfinite(one.summed[at].ravel())
        if bad.any():
            names = tuple(_names_at(known, at, np.flatnonzero(bad)))
            cause = (
                f"finite on all replicas, too large for {known.layout.dtypes[at].name} "
                f"after the sum, in {_listed(names)}"
            )
            return Verdict(False, cause, (), names)
    return None


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown

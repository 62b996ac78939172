"""Where gradients stopped being finite, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from distloss._formula.checked_sums import Evidence, of_group
from distloss._formula.checksums import Group
from distloss.optimizers.sum_known import (
    Block,
    Known,
    Verdict,
    elements_of,
    listed,
    names_at,
)

_Array = Any  # of NumPy


def not_finite(found: Sequence[Evidence], known: Known) -> Verdict | None:
    """Who sent what is not finite, or that the sum of what is finite is too large."""
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
        variables = tuple(
            dict.fromkeys(
                name
                for block in blocks
                for name in names_at(known, block.group, elements_of(one, [block]))
            )
        )
        cause = f"not finite on {{{index}}} before the sum, in {listed(variables)}"
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


def _blocks_not_finite(one: Evidence, index: int, known: Known) -> list[Block]:
    return [
        Block(at, block)
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
            names = tuple(names_at(known, at, np.flatnonzero(bad)))
            cause = (
                f"finite on all replicas, too large for {known.layout.dtypes[at].name} "
                f"after the sum, in {listed(names)}"
            )
            return Verdict(False, cause, (), names)
    return None

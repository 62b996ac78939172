"""The probes of the audit, as data: which rows go where, and what is switched off."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

UNEVEN = "uneven split"

# First and last row (exclusive) of each replica.
Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Probe:
    """One training step (or K of them, where K make an update).

    Attributes:
      name: "even", "uneven", ... for people.
      micro: for each call of the step, the rows of each replica.
      order: the rows of the batch in this order, or as they are.
      clip: 0 turns clipping off, 1 is the user's, more makes it fire sooner.
      added: factor of `add_loss` terms.
      regularizers: factor of weight regularisers.
      outputs: a factor for each loss of a compiled model with several.
      infinite_row: a row whose input is made infinite.
      batch_norm: "frozen" or "live".
      nudge: weights are first moved by so many times the gradient of this probe.
      shifted: the index of a variable that is first given other values, or None.
      held: whether weights are put back before each call of the step, and nothing else.
      only_added: of the layers that add losses, the one whose losses count, or all.
      alone: what a term of the loss ("added", "regularizers") makes of the gradient:
        the difference of two runs, with and without it. Empty for all terms.
      slices_added: whether slices of sparse gradients are added up by index before
        they are clipped and before the update.
      observe: "gradient" at the update rule, what the step changes in "weights", or
        what the "tape" of each replica gave, or all of several, summed over replicas.
    """

    name: str
    micro: tuple[Bounds, ...]
    order: tuple[int, ...] | None = None
    clip: float = 0.0
    added: float = 1.0
    regularizers: float = 1.0
    outputs: tuple[float, ...] = ()
    infinite_row: int | None = None
    batch_norm: str = "frozen"
    nudge: float = 0.0
    shifted: int | None = None
    held: bool = False
    only_added: int | None = None
    alone: str = ""
    slices_added: bool = False
    observe: str = "gradient"

    def on_one(self) -> Probe:
        """The same rows on one replica."""
        micro = tuple(((bounds[0][0], bounds[-1][1]),) for bounds in self.micro)
        return dataclasses.replace(self, micro=micro)

    def of_replica(self, replica: int) -> Probe:
        """The rows of one replica, alone on one replica."""
        micro = tuple((bounds[replica],) for bounds in self.micro)
        return dataclasses.replace(self, name=f"part {replica}", micro=micro)

    def with_a_row_on_each(self) -> Probe | None:
        """The same, but the last replica takes a row over; None if there is none."""
        if any(stop - start < 2 for *_, (start, stop), _ in self.micro):
            return None
        micro = tuple(
            (*bounds[:-2], (start, stop - 1), (stop - 1, stop))
            for bounds in self.micro
            for start, stop in [bounds[-2]]
        )
        return dataclasses.replace(self, name="one row", micro=micro)

    def rows(self) -> list[list[int]]:
        """How many rows each replica gets, per call of the step."""
        return [[stop - start for start, stop in bounds] for bounds in self.micro]


def split(start: int, sizes: Sequence[int]) -> Bounds:
    """Rows one replica after the other."""
    bounds = []
    for size in sizes:
        bounds.append((start, start + size))
        start += size
    return tuple(bounds)


def chunks(rows: int, calls: int) -> list[tuple[int, int]]:
    """Start and size of the rows of each call: unequal, all rows together."""
    sizes = proportional(rows, range(calls + 1, 1, -1))
    starts = [sum(sizes[:i]) for i in range(calls)]
    return list(zip(starts, sizes, strict=True))


def proportional(rows: int, shares: Sequence[int]) -> list[int]:
    """`rows` in whole numbers about as `shares`, none of them zero."""
    total = sum(shares)
    edges = [0]
    for i in range(len(shares)):
        edge = round(rows * sum(shares[: i + 1]) / total)
        edges.append(min(max(edge, edges[-1] + 1), rows - (len(shares) - 1 - i)))
    return [b - a for a, b in itertools.pairwise(edges)]


def whole(rows: int, calls: int) -> Probe:
    """All rows on one replica."""
    micro = tuple(split(start, [size]) for start, size in chunks(rows, calls))
    return Probe("whole", micro)


def even(rows: int, replicas: int, calls: int = 1, part: int | None = None) -> Probe:
    """As many rows on each replica; of the first or second half with `part`."""
    start, stop = 0, rows
    if part is not None:
        start, stop = (0, rows // 2) if part == 0 else (rows // 2, rows)
    micro = []
    for first, size in chunks(stop - start, calls):
        micro.append(split(start + first, [size // replicas] * replicas))
    return Probe("even split", tuple(micro))


def uneven(rows: int, replicas: int, calls: int = 1) -> Probe | None:
    """A different number of rows on each replica; None if there are too few."""
    shares = [2 * replica + 1 for replica in range(replicas)]
    micro = []
    for first, size in chunks(rows, calls):
        if size <= replicas:
            return None
        micro.append(split(first, proportional(size, shares)))
    return Probe(UNEVEN, tuple(micro))


def empty(rows: int, replicas: int, calls: int = 1) -> Probe:
    """As many rows on each replica but the last, which has none."""
    micro = []
    for first, size in chunks(rows, calls):
        sizes = [size // (replicas - 1)] * (replicas - 1) + [0]
        micro.append(split(first, sizes))
    return Probe("empty shard", tuple(micro))

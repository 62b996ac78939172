"""What a verdict about a sum over replicas is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distloss._formula.checked_sums import Evidence, Layout

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
      receivers: who, of the replicas of this process, received a wrong sum.
    """

    is_corrupted: bool
    cause: str
    replicas: tuple[int, ...]
    variables: tuple[str, ...]
    receivers: tuple[int, ...] = ()


class Block(NamedTuple):
    """A block whose sum is not as expected: its group, and its place in that."""

    group: int
    at: int


def elements_of(one: Evidence, blocks: Sequence[Block]) -> _Array:
    """The places in its group of the elements of blocks of one group."""
    length = one.summed[blocks[0].group].shape[1]
    return np.concatenate(
        [np.arange(b.at * length, (b.at + 1) * length) for b in blocks]
    )


def names_at(known: Known, group: int, at: _Array) -> list[str]:
    """The names of tensors of which these are elements, one after the other."""
    indices = known.layout.groups[group].at
    edges = np.cumsum([known.sizes[i] for i in indices])
    if known.layout.groups[group].is_sparse:
        return [known.names[indices[0]]]
    inside = np.unique(np.searchsorted(edges, at[at < edges[-1]], side="right"))
    return [known.names[indices[i]] or "the loss and its weight" for i in inside]


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence, of which not all are said where there are many."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown

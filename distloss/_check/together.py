"""Gradients of several processes: how far they are apart, and what they add up to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from distloss.replicas.processes import FailedSomewhereError, Processes

Array = Any  # of NumPy


def apart(gradient: Array, first: Array) -> float:
    """How far two replicas are from each other; 0 also where both are not finite."""
    if np.array_equal(gradient, first, equal_nan=True):
        return 0.0
    wide = np.asarray(first, np.float64)
    size = max(float(np.linalg.norm(wide)), float(np.linalg.norm(gradient)))
    distance = float(np.linalg.norm(gradient - wide))
    return distance / size if np.isfinite(distance) and size else float("inf")


def spread_over(processes: Processes, gradients: Sequence[Array | None]) -> float:
    """The largest relative difference between what processes update with.

    Raises:
      FailedSomewhereError: they do not update the same variables.
    """
    if processes.count == 1:
        return 0.0
    sizes = [None if one is None else one.size for one in gradients]
    every = processes.gathered((sizes, _digest(gradients)))
    _refuse_others([found for found, _ in every])
    if len({digest for _, digest in every}) == 1:  # as a rule: nothing else is sent
        return 0.0
    of_first = (processes.told(one) for one in gradients)
    pairs = [(a, b) for a, b in zip(gradients, of_first, strict=True) if a is not None]
    return max(processes.gathered(max(apart(a, b) for a, b in pairs)))


def sums_over(
    processes: Processes, gradients: Sequence[Array | None]
) -> list[Array | None]:
    """The sums of gradients over processes, None where none has one.

    Raises:
      FailedSomewhereError: they do not update the same variables.
    """
    if processes.count == 1:
        return list(gradients)
    _refuse_others(processes.gathered([len(gradients)]))
    return [_sum(processes.gathered(one)) for one in gradients]


def _sum(parts: Sequence[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return sum(known[1:], known[0]) if known else None


def _refuse_others(every: Sequence[list[int | None]]) -> None:
    for index, sizes in enumerate(every):
        if sizes != every[0]:
            raise FailedSomewhereError(
                f"process {index} does not update the variables that process 0 updates"
            )


def _digest(gradients: Sequence[Array | None]) -> bytes:
    found = hashlib.blake2b()
    for one in gradients:
        if one is not None:
            found.update(np.ascontiguousarray(one).tobytes())
    return found.digest()

"""Who got which rows of a batch: each row should go to one replica. No TensorFlow.

A row is known by a digest of all that it holds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from distloss._audit.checks.causes import CAUSES
from distloss._audit.report.findings import Finding

Dealt = Sequence[Sequence[str]]  # the digest of each row of the first batch, by replica


def wrongly_dealt(on_one: Dealt, on_many: Dealt) -> Finding | None:
    """What is wrong with a batch on N replicas, given the one that one replica gets."""
    whole, dealt = (
        Counter(itertools.chain.from_iterable(parts)) for parts in (on_one, on_many)
    )
    rows, expected = sum(dealt.values()), sum(whole.values())
    # A row may be in the data twice; then it is so on one replica.
    again = sum(max(0, times - max(1, whole[row])) for row, times in dealt.items())
    sizes = ", ".join(str(len(part)) for part in on_many)
    shown = f"{len(on_many)} replicas get {sizes} rows"
    if again:
        evidence = f"{shown}, {again} of them for the second time or more"
        return _finding("batch-dealt-twice", on_many, rows / (rows - again), evidence)
    if rows != expected:
        evidence = f"{shown}; one replica gets {expected}"
        times = rows / max(1, expected)
        return _finding("batch-grows-with-replicas", on_many, times, evidence)
    return None


def _finding(cause: str, on_many: Dealt, times: float, evidence: str) -> Finding:
    explanation, remedy = CAUSES[cause]
    count = len(on_many)
    return Finding(cause, count, times, 0.0, (), explanation, remedy, (evidence,))

"""A check: what the audit does to recognise a cause, in each phase of its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause
from distloss._audit.checks.compare import (
    Difference,
    Look,
    Observation,
    StepFacts,
)
from distloss._audit.checks.comparison import Comparison, Deviation
from distloss._audit.report.findings import Finding

# The digest of each row of the first batch, by replica.
Sharding = Sequence[Sequence[str]]


def _nothing(*_: Any) -> None:
    """Does nothing in this phase."""


def _not_it(*_: Any) -> bool:
    return False


def _as_they_are(findings: list[Finding]) -> list[Finding]:
    return findings


@dataclass(frozen=True)
class Check:
    """How causes are recognised: what is done in each phase, if it is given.

    The phases come in this order, and `table.CHECKS` is walked through in each of them.
    A phase that "names" something notes what it finds, and says whether it did.

    Attributes:
      name: in notes about what could not be run.
      causes: that it can name.
      on_sharding: names a cause, given the rows that one replica gets first of a data
        set, and those that N get.
      on_trace: names what is wrong with the traced step by itself, so that there is
        nothing to compare.
      on_one_device: looks at the step on one device.
      on_first_step: names what makes every other probe on N replicas pointless, given
        what the first shows, how far that is from one replica, and how weights change.
      explain_at_once: names why N replicas differ, before terms of the loss are told
        apart.
      explain_term: names why one term of the loss differs, in its own words.
      explain: names why N replicas differ.
      on_replicas: runs probes of its own on N replicas; is told whether N replicas
        agree with one on an even split.
      afterwards: looks at the step on one device once N replicas are compared.
      review: changes the findings once all are known.
      split: of the batch that `on_replicas` is about: "uneven" or "empty".
    """

    name: str
    causes: tuple[Cause, ...] = ()
    on_sharding: Callable[[Sharding, Sharding], Finding | None] = _nothing
    on_trace: Callable[[Look, StepFacts], Finding | None] = _nothing
    on_one_device: Callable[[Baseline], None] = _nothing
    on_first_step: Callable[
        [Comparison, Observation, Difference, Observation], bool
    ] = _not_it
    explain_at_once: Callable[[Comparison, Deviation], bool] = _not_it
    explain_term: Callable[[Comparison, Deviation], bool] = _not_it
    explain: Callable[[Comparison, Deviation], bool] = _not_it
    on_replicas: Callable[[Comparison, bool], None] = _nothing
    afterwards: Callable[[Baseline], None] = _nothing
    review: Callable[[list[Finding]], list[Finding]] = _as_they_are
    split: str = ""

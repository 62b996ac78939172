"""Judges a step that is being trained: is its gradient that of one device, and why not?

Knows no TensorFlow: it is given two gradients, and asks for more of them. The causes
are those of the audit, as far as one batch of a running program can show them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.baseline import Baseline, calibrated
from distloss._audit.checks.causes.batch_statistics import BATCH_STATISTICS
from distloss._audit.checks.causes.clipping import CLIP_BEFORE_SUM
from distloss._audit.checks.causes.empty_replica import EMPTY_REPLICA
from distloss._audit.checks.causes.not_reduced import CHECK as NOT_REDUCED
from distloss._audit.checks.causes.unexplained import UNEXPLAINED
from distloss._audit.checks.compare import (
    Difference,
    NotRun,
    Observation,
    StepFacts,
    Tolerance,
)
from distloss._audit.checks.comparison import Comparison, Deviation
from distloss._audit.checks.probes import UNEVEN, Probe
from distloss._audit.checks.table import CHECKS
from distloss._audit.report.findings import Finding
from distloss._errors import AuditError

if TYPE_CHECKING:  # of the library, which the audit is only given objects of
    from distloss._check.measured import Measured

# What a probe shows: the gradient, and how far replicas are apart.
Shown = Callable[[int, Probe], tuple[Any, float]]


@dataclass(frozen=True)
class Verdict:
    """What is said of a step.

    Attributes:
      agrees: whether there is nothing but rounding between the two gradients.
      error: |gN - g1| / |g1|.
      allowed: up to which that is taken for rounding.
      scale: alpha, how many times too large the gradient of N replicas is.
      residual: rho, what a scale does not explain.
      variables: paths of those that differ.
      why_not: why the two could not be compared; "" if they were.
      findings: the causes.
    """

    agrees: bool
    error: float
    allowed: float
    scale: float
    residual: float
    variables: tuple[str, ...]
    why_not: str = ""
    findings: tuple[Finding, ...] = ()


def judged(measured: Measured, show: Shown) -> Verdict:
    """Compares N replicas with one device; looks for the cause of a difference."""
    facts = _facts(measured)
    seen = Observation(measured.many, spread=measured.spread)
    wanted = Observation(measured.one)
    difference = Tolerance(facts).compare(seen, wanted)
    is_apart = measured.spread > facts.rounding
    if not np.isfinite(measured.one).all():
        return _said(facts, difference, "the gradient of one device is not finite")
    if difference.agrees and not is_apart:
        return _said(facts, difference)
    try:
        baseline = calibrated(_look(show), facts, lambda: True)
    except AuditError as error:
        return _said(facts, difference, str(error))
    if baseline.is_random:
        return _said(facts, difference, _random(baseline))
    difference = baseline.tolerance.compare(seen, wanted)
    if difference.agrees and not is_apart:
        return _said(facts, difference)
    if difference.doubtful and not is_apart:
        return _said(facts, difference, _doubtful(difference))
    comparison = Comparison(len(measured.rows), baseline)
    _explain(comparison, _probe(measured), seen, difference)
    findings = tuple(comparison.findings)
    return _said(facts, difference, findings=findings)


def _facts(measured: Measured) -> StepFacts:
    return StepFacts(
        measured.names,
        measured.sizes,
        measured.eps,
        sum(measured.rows),
        tapes=measured.tapes,
        clip=measured.clips,
        batch_norm=measured.batch_norm,
    )


def _said(
    facts: StepFacts,
    difference: Difference,
    why_not: str = "",
    findings: tuple[Finding, ...] = (),
) -> Verdict:
    return Verdict(
        difference.agrees and not findings and not why_not,
        difference.error,
        facts.rounding,
        difference.scale,
        difference.residual,
        tuple(facts.names[i] for i in difference.wrong),
        why_not,
        findings,
    )


def _random(baseline: Baseline) -> str:
    return (
        "two runs of it on one device differ, by "
        f"{baseline.apart:.2g} of the gradient: it draws random numbers"
    )


def _doubtful(difference: Difference) -> str:
    return (
        f"the gradients are {difference.error:.2g} apart, which may be rounding in "
        "this dtype, or more; train the step in float32 or float64 once to know"
    )


def _look(show: Shown) -> Callable[[int, Probe], Observation]:
    def look(count: int, probe: Probe) -> Observation:
        try:
            gradient, spread = show(count, probe)
        except Exception as error:
            raised = not isinstance(error, NotImplementedError)
            raise NotRun(f"{type(error).__name__}: {error}", raised=raised) from error
        return Observation(gradient, spread=spread)

    return look


def _probe(measured: Measured) -> Probe:
    """What was measured, in the words of the audit."""
    is_even = len(set(measured.rows)) == 1
    name = "even split" if is_even else UNEVEN
    bounds = probes.split(0, measured.rows)
    return Probe(name, (bounds,), clip=1.0, batch_norm="live")


def _explain(
    comparison: Comparison, probe: Probe, seen: Observation, difference: Difference
) -> None:
    if NOT_REDUCED.on_first_step(comparison, seen, difference, seen):
        return
    if not difference.finite:
        _not_finite(comparison, probe, difference)
        return
    off, difference = _switched_off(comparison, probe, difference)
    if difference.agrees:
        _name_what_was_off(comparison, off)
    elif not _is_of_replicas_without_rows(comparison, off, difference):
        _explain_as_the_audit(comparison, Deviation(off, difference))


def _explain_as_the_audit(comparison: Comparison, deviation: Deviation) -> None:
    for attempt in _attempts():
        try:
            if attempt(comparison, deviation):
                return
        except NotRun as error:
            comparison.skip(deviation.probe.name, str(error))


def _attempts() -> Iterator[Callable[[Comparison, Deviation], bool]]:
    for check in CHECKS:
        yield check.explain_at_once
    for check in CHECKS:
        yield check.explain


def _not_finite(comparison: Comparison, probe: Probe, difference: Difference) -> None:
    """A gradient that is finite on one device: of a replica without rows, or not known.

    Where the rows of such replicas are what makes it, others do not.
    """
    (rows,) = probe.rows()
    evidence = f"rows {rows}: not finite on replicas, finite on one device"
    if 0 in rows:
        comparison.find(EMPTY_REPLICA, difference, evidence)


def _is_of_replicas_without_rows(
    comparison: Comparison, probe: Probe, difference: Difference
) -> bool:
    """Whether means are averaged in which replicas without rows count as 0.

    Of a single replica with rows that is 1/N, which a division too many gives as well.
    """
    (rows,) = probe.rows()
    n, filled = comparison.replicas, sum(map(bool, rows))
    share = filled / n
    is_share = comparison.tolerance.is_near(difference.scale, share)
    if filled == n or not (difference.uniform and is_share):
        return False
    evidence = f"rows {rows}: alpha = {difference.scale:.4g}, {filled} of {n} have rows"
    if filled > 1:
        comparison.find(EMPTY_REPLICA, difference, evidence)
    else:
        other = "a division by N too many would give the same; a full batch tells"
        comparison.find(UNEXPLAINED, difference, f"{evidence}; {other}")
    return True


def _switched_off(
    comparison: Comparison, probe: Probe, difference: Difference
) -> tuple[Probe, Difference]:
    """Without clipping and with frozen statistics, where the step has either."""
    if not comparison.facts.clip and not comparison.facts.batch_norm:
        return probe, difference
    off = dataclasses.replace(probe, clip=0.0, batch_norm="frozen")
    try:
        return off, comparison.measure(off)[1]
    except NotRun:
        return probe, difference


def _name_what_was_off(comparison: Comparison, off: Probe) -> None:
    """Names what makes the difference, which is gone without it."""
    for cause, on in (
        (CLIP_BEFORE_SUM, dataclasses.replace(off, clip=1.0)),
        (BATCH_STATISTICS, dataclasses.replace(off, batch_norm="live")),
    ):
        _, difference = comparison.measure(on)
        if not difference.agrees:
            shown = f"alpha = {difference.scale:.4g}, rho = {difference.residual:.2g}"
            comparison.find(cause, difference, f"{shown}; without it they are the same")

"""From measurements to causes: walks through the table of checks, phase by phase.

Nothing is guessed: a cause is named when a probe shows it, and what no probe explains
is a finding of its own, `unexplained`. Knows no TensorFlow: it asks for probes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.causes.unexplained import UNEXPLAINED
from distloss._audit.checks.check import Sharding
from distloss._audit.checks.compare import Look, NotRun, StepFacts
from distloss._audit.checks.comparison import Comparison, Deviation
from distloss._audit.checks.probes import Probe
from distloss._audit.checks.table import CHECKS
from distloss._audit.report.findings import Finding, Measured, Skipped


@dataclass(frozen=True)
class Diagnosis:
    """What the comparison of N replicas with one came to.

    Attributes:
      findings: what is wrong.
      skipped: what was not checked, and why.
      measured: what each probe said.
      doubt: the largest difference that may be rounding, or more; 0 for none.
      failure: why N replicas could not be compared at all; "" if they were.
    """

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    measured: tuple[Measured, ...]
    doubt: float
    failure: str


def sharding_of(on_one: Sharding, on_many: Sharding) -> list[Finding]:
    """What is wrong with who gets which rows of a data set."""
    found = [check.on_sharding(on_one, on_many) for check in CHECKS]
    return [finding for finding in found if finding]


def of_the_trace(look: Look, facts: StepFacts) -> list[Finding]:
    """What is wrong with a step by itself, after which there is nothing to compare."""
    found = [check.on_trace(look, facts) for check in CHECKS]
    return [finding for finding in found if finding]


def look_at_one_device(baseline: Baseline) -> None:
    """Notes in `baseline` what one device shows by itself."""
    for check in CHECKS:
        check.on_one_device(baseline)


def look_at_one_device_again(baseline: Baseline) -> None:
    """Notes what is worth a look once N replicas are compared."""
    for check in CHECKS:
        baseline.attempt(check.name, functools.partial(check.afterwards, baseline))


def reviewed(findings: Sequence[Finding]) -> list[Finding]:
    """All findings, so that none of them contradicts another."""
    found = list(findings)
    for check in CHECKS:
        found = check.review(found)
    return found


def diagnosis(
    replicas: int, baseline: Baseline, patient: Callable[[], bool]
) -> Diagnosis:
    """Compares N replicas with one.

    Args:
      replicas: N.
      baseline: the step on one device.
      patient: whether there is time for more than what decides.
    """
    comparison = Comparison(replicas, baseline)
    failure = _compare(comparison, patient)
    return Diagnosis(
        tuple(comparison.findings),
        tuple(comparison.skipped),
        tuple(comparison.measured),
        comparison.doubt,
        failure,
    )


def _compare(comparison: Comparison, patient: Callable[[], bool]) -> str:
    """Probes what decides first; returns why it could not, or nothing."""
    even = comparison.even()
    try:
        _check_rows(comparison, even)
        seen, difference, after = comparison.measure_first(even)
    except NotRun as error:
        comparison.skip("even split", str(error))
        return str(error)
    first = (comparison, seen, difference, after)
    if any(check.on_first_step(*first) for check in CHECKS):
        return ""
    if not difference.agrees:
        _explain(comparison, Deviation(even, difference))
    if comparison.findings and not patient():
        why = "the cause is certain, and a step takes seconds"
        comparison.skip("other probes", why)
        return ""
    for check in CHECKS:
        why = comparison.facts.why_not(check.split, comparison.replicas)
        if why:
            comparison.skip(f"{check.split} split", why)
            continue
        run = functools.partial(check.on_replicas, comparison, difference.agrees)
        comparison.attempt(check.name, run, is_needed=bool(check.split))
    return ""


def _check_rows(comparison: Comparison, even: Probe) -> None:
    if any(0 in rows for rows in even.rows()):
        raise NotRun(
            f"Expected rows for each of {comparison.replicas} replicas in each of "
            f"{comparison.facts.calls} calls of the step, which make one update. Got "
            f"{comparison.facts.rows} rows in all. Return a larger batch."
        )


def _explain(comparison: Comparison, deviation: Deviation) -> None:
    """Names the cause of a difference, of each term of the loss by itself."""
    if any(check.explain_at_once(comparison, deviation) for check in CHECKS):
        return
    before = len(comparison.findings)
    for term, alone in comparison.terms(deviation.probe):
        try:
            _, own = comparison.measure(alone)
        except NotRun as error:
            comparison.skip(f"{alone.name} of {term}", str(error))
            continue
        if not own.agrees:
            _explain_one(comparison, Deviation(alone, own, term))
    if len(comparison.findings) == before:
        _explain_one(comparison, deviation)


def _explain_one(comparison: Comparison, deviation: Deviation) -> None:
    """Names the cause of a difference of one term, or of all together."""
    difference, term = deviation.difference, deviation.term
    if not difference.finite:
        evidence = "the gradient is not finite on N replicas, and is on one"
        comparison.find(UNEXPLAINED, difference, evidence, term=term)
        return
    attempts = [check.explain_term for check in CHECKS] if term else []
    attempts += [check.explain for check in CHECKS]
    for attempt in attempts:
        try:
            if attempt(comparison, deviation):
                return
        except NotRun as error:
            name = f"{deviation.probe.name}, telling causes apart"
            comparison.skip(name, str(error))

"""The step on one device: how exact it is, and what checks find on it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.cause import Cause
from distloss._audit.checks.compare import (
    Look,
    NotRun,
    Observation,
    StepFacts,
    Tolerance,
    norm,
)
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Finding, Skipped
from distloss._errors import AuditError

MOST_CALLS = 16  # of the step, in which an update is expected


class Baseline:
    """The step on one replica, with which N replicas are compared.

    Args:
      look: runs a probe.
      facts: about the step, with the number of calls that make an update.
      apart: of two runs of the same step, relative to the gradient; 0 for rounding.
      noise: per variable, what another order of the rows changes; None if it was not
        measured, since the step is random or slow.

    Attributes:
      tolerance: tells rounding from a difference, with the noise that was measured.
      findings: what is wrong on one device.
      skipped: what was not checked, and why.
    """

    def __init__(
        self, look: Look, facts: StepFacts, apart: float, noise: list[float] | None
    ) -> None:
        self.look, self.facts, self.apart = look, facts, apart
        self.is_measured = noise is not None
        self.tolerance = Tolerance(facts, noise)
        self.findings: list[Finding] = []
        self.skipped: list[Skipped] = []

    @property
    def is_random(self) -> bool:
        """Whether two runs of the same step differ."""
        return self.apart != 0

    def whole(self) -> Probe:
        """All rows, in as many calls as make an update."""
        return probes.whole(self.facts.rows, self.facts.calls)

    def seen(self, probe: Probe) -> Observation:
        """What a probe shows without which there is no verdict.

        Raises:
          AuditError: it could not be run.
        """
        return _seen(self.look, probe)

    def attempt(self, name: str, check: Callable[[], None]) -> None:
        """Runs a check; notes why it could not be run."""
        try:
            check()
        except NotRun as error:
            self.skipped.append(Skipped(name, str(error)))

    def find(self, cause: Cause, scale: float, *evidence: str) -> None:
        """Notes a cause, which concerns all variables."""
        found = cause.finding(1, scale, *evidence)
        self.findings.append(dataclasses.replace(found, variables=self.facts.names))


def calibrated(look: Look, facts: StepFacts, patient: Callable[[], bool]) -> Baseline:
    """Finds how many calls make an update, what is chance, and what is rounding.

    Raises:
      AuditError: the step makes no update, or one that is not finite.
    """
    facts = dataclasses.replace(facts, calls=_calls(look, facts))
    whole = probes.whole(facts.rows, facts.calls)
    first = _seen(look, whole)
    _check_gradient(first)
    again = _seen(look, _in_order(whole, range(facts.rows)))
    apart = Tolerance(facts).apart(again, first)
    is_exact = apart == 0 and patient()
    noise = _noise(look, facts, first) if is_exact else None
    baseline = Baseline(look, facts, apart, noise)
    if "weights" in first.sources:
        baseline.skipped.append(_compared_by_weights(first))
    return baseline


def _seen(look: Look, probe: Probe) -> Observation:
    try:
        return look(1, probe)
    except NotRun as error:
        raise AuditError(str(error)) from error


def _in_order(probe: Probe, rows: Iterable[int]) -> Probe:
    return dataclasses.replace(probe, order=tuple(rows))


def _calls(look: Look, facts: StepFacts) -> int:
    """How many calls of the step make one update."""
    for calls in range(1, min(MOST_CALLS, facts.rows) + 1):
        seen = _seen(look, probes.whole(facts.rows, calls))
        if seen.moved or "gradient" in seen.sources:
            return calls
    raise AuditError(
        "Expected train_step to change trainable_variables. Got no change in "
        f"{MOST_CALLS} calls. Does it apply an update, at a rate above 0?"
    )


def _check_gradient(seen: Observation) -> None:
    if not np.isfinite(seen.gradient).all():
        raise AuditError(
            "Expected a finite gradient on one replica. Got NaN or infinity, with "
            f"which nothing can be compared. The reported loss is {seen.loss}."
        )
    if not norm(seen.gradient):
        raise AuditError(
            "Expected a gradient that is not zero on one replica. Got zero for all "
            "variables: nothing can be compared."
        )


def _noise(look: Look, facts: StepFacts, first: Observation) -> list[float]:
    """Per variable, what another order of the rows changes."""
    noise = [0.0] * len(facts.sizes)
    if facts.calls > 1:
        return noise  # another order puts other rows into each call
    whole = probes.whole(facts.rows, 1)
    other = _seen(look, _in_order(whole, reversed(range(facts.rows))))
    limit = 10 * facts.rounding
    for i, part in enumerate(facts.slices()):
        apart = norm(other.gradient[part] - first.gradient[part])
        # More is not rounding: a loss that compares neighbours really changes.
        if apart <= limit * norm(first.gradient[part]) + limit * 1e-2 * norm(
            first.gradient
        ):
            noise[i] = apart
    return noise


def _compared_by_weights(seen: Observation) -> Skipped:
    some = "some variables" if "gradient" in seen.sources else "all variables"
    return Skipped(
        "gradients at the update rule",
        f"no Keras optimizer updates {some}: compared is what the step changes "
        "in the weights, from which a rule such as Adam may hide the scale",
    )

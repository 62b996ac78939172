"""A right gradient, and another loss shown than that of the batch."""

from __future__ import annotations

import dataclasses

import numpy as np

from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference
from distloss._audit.checks.comparison import Comparison
from distloss._audit.report.findings import Finding

_REMEDY = Remedy(
    "Sum shares over replicas and average means; with Keras, let the step return its "
    "metrics. distloss.DistributedLoss shows the mean of the batch."
)

REPORT_ONLY = Cause(
    "report-only",
    "The gradient is right; the loss that is shown is not the loss of the batch.",
    _REMEDY,
    cases={
        "besides": (
            "The loss that is shown is not the loss of the batch either, not even on "
            "an even split.",
            _REMEDY,
        )
    },
)


def _report(comparison: Comparison, even_agrees: bool) -> None:
    if not even_agrees:
        return
    many, one = (seen.loss for seen in comparison.many_and_one(comparison.even()))
    if len(one) != 1 or not many or not np.isfinite(one[0]):
        comparison.skip("reported loss", "the step returns no loss")
        return
    total = sum(many)
    mean = total / len(many)
    limit = 10 * comparison.facts.rounding * abs(one[0]) + 1e-7
    if any(abs(reading - one[0]) <= limit for reading in (total, mean)):
        return
    right = Difference(1.0, 0.0, 0.0, True, True, True, False, (), {})
    ratio = mean / one[0] if one[0] else float("nan")
    comparison.find(
        REPORT_ONLY,
        right,
        f"shown on {comparison.replicas} replicas: {mean:.6g}, on one device: "
        f"{one[0]:.6g}, {ratio:.4g} times",
    )


def review(findings: list[Finding]) -> list[Finding]:
    """None of them calls the gradient right that another calls wrong."""
    if all(f.cause == REPORT_ONLY.slug for f in findings):
        return findings
    explanation, remedy = REPORT_ONLY.cases["besides"]
    return [
        dataclasses.replace(f, explanation=explanation, remedy=str(remedy))
        if f.cause == REPORT_ONLY.slug
        else f
        for f in findings
    ]


CHECK = Check("report", (REPORT_ONLY,), on_replicas=_report, review=review)

"""A right gradient, and another loss shown than that of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference, NotRun
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
    if _is_loss_of(comparison, many, one[0]):
        _report_uneven(comparison)
    else:
        _find(comparison, many, one[0])


def _report_uneven(comparison: Comparison) -> None:
    """The same where parts are unequal, if it is clear what is shown there.

    It is where all replicas show one number. Of several, as means of their own rows,
    nobody knows how they are put together afterwards.
    """
    n, facts = comparison.replicas, comparison.facts
    probe = probes.uneven(facts.rows, n, facts.calls)
    if probe is None or facts.why_not("uneven", n):
        return
    try:
        seen, wanted = comparison.many_and_one(probe)
    except NotRun:
        return  # which is noted where uneven splits are looked at
    if len(wanted.loss) != 1 or not np.isfinite([*seen.loss, *wanted.loss]).all():
        return
    if np.ptp(seen.loss) > _rounding(comparison, wanted.loss[0]):
        return
    is_right = comparison.tolerance.compare(seen, wanted).agrees
    if is_right and not _is_loss_of(comparison, seen.loss, wanted.loss[0]):
        _find(comparison, seen.loss, wanted.loss[0], f"{probe.name}, ")


def _is_loss_of(comparison: Comparison, many: Sequence[float], one: float) -> bool:
    """Whether the sum or the mean of what N replicas show is what one shows."""
    total = sum(many)
    limit = _rounding(comparison, one)
    return any(abs(reading - one) <= limit for reading in (total, total / len(many)))


def _rounding(comparison: Comparison, loss: float) -> float:
    return 10 * comparison.facts.rounding * abs(loss) + 1e-7


def _find(
    comparison: Comparison, many: Sequence[float], one: float, where: str = ""
) -> None:
    right = Difference(1.0, 0.0, 0.0, True, True, True, False, (), {})
    mean = sum(many) / len(many)
    ratio = mean / one if one else float("nan")
    comparison.find(
        REPORT_ONLY,
        right,
        f"{where}shown on {comparison.replicas} replicas: {mean:.6g}, on one device: "
        f"{one:.6g}, {ratio:.4g} times",
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

"""A step that divides by a number of rows which a batch need not have."""

from __future__ import annotations

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, divided_by_all
from distloss._audit.checks.check import Check
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Skipped

NOMINAL_BATCH_SIZE = Cause(
    "nominal-batch-size",
    "The step divides by a constant number of rows, which this batch does not have: "
    "the rows of a short batch count for less.",
    divided_by_all("Divide by the rows that are there. "),
)


def _constants(baseline: Baseline) -> None:
    facts, rows = baseline.facts, baseline.facts.rows
    known = {*facts.constants, *facts.batch_sizes}
    if facts.calls > 1 or rows < 4 or not known or not _adds_up(baseline):
        return
    others = [c for c in facts.batch_sizes if c != rows]
    # The rows of a short batch are some of those of a full one.
    others += [c for c in facts.constants if rows < c < 2 * rows]
    if rows in known:
        _note(
            baseline,
            f"the step divides by the constant {rows}: rows of a shorter batch than "
            "this one count for less",
        )
    elif others:
        evidence = (
            f"the step divides by the constant {max(others)}; the batch has {rows} "
            "rows, and the gradients of its parts add up to that of the whole"
        )
        baseline.find(NOMINAL_BATCH_SIZE, rows / max(others), evidence)
    elif max(known) > rows:
        _note(
            baseline,
            f"the loss divides a sum over {rows} rows by the constant {max(known)}; if "
            "that is meant as a number of rows, a batch of fewer counts for less",
        )


def _adds_up(baseline: Baseline) -> bool:
    """Whether the gradients of two parts add up to that of the whole."""
    rows = baseline.facts.rows
    cut = rows // 3
    parts = [
        baseline.look(1, Probe("short batch", ((bounds,),))).gradient
        for bounds in ((0, cut), (cut, rows))
    ]
    whole = baseline.look(1, baseline.whole()).gradient
    factors, left = baseline.tolerance.fit(whole, parts)
    is_sum = left <= 30 * baseline.facts.rounding
    return is_sum and all(abs(factor - 1) <= 0.02 for factor in factors)


def _note(baseline: Baseline, why: str) -> None:
    baseline.skipped.append(Skipped("short batches", why))


CHECK = Check("short batch", (NOMINAL_BATCH_SIZE,), afterwards=_constants)

"""A replica without rows, as in the last batch of an epoch."""

from __future__ import annotations

import dataclasses

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.cause import Cause, Remedy, divided_by_all
from distloss._audit.checks.causes.parts import MEAN_OF_MEANS
from distloss._audit.checks.causes.unexplained import UNEXPLAINED, is_of_accumulation
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference, NotRun
from distloss._audit.checks.comparison import Comparison
from distloss._audit.checks.probes import Probe

EMPTY_REPLICA = Cause(
    "empty-replica",
    "A replica that got no rows spoils the step, as happens with the last batch of an "
    "epoch.",
    divided_by_all(
        "A sum of no rows is 0, a mean of none is not a number: divide sums by what "
        "all replicas hold. "
    ),
    cases={
        "raises": (
            "The step raises on a replica that got no rows, as happens with the last "
            "batch of an epoch.",
            Remedy(
                "By hand: give such a replica a row whose losses have weight 0 (an "
                "operation of TensorFlow may fail on none), or drop batches with fewer "
                "rows than there are replicas.",
                compiled=True,
            ),
        )
    },
)


def _empty(comparison: Comparison, even_agrees: bool) -> None:
    n, facts = comparison.replicas, comparison.facts
    probe = probes.empty(facts.rows, n, facts.calls)
    try:
        seen, difference = comparison.measure(probe)
    except NotRun as error:
        _raises(comparison, probe, error)
        return
    shown = f"{n - 1} of {n} replicas with rows"
    if not difference.finite:
        evidence = f"{shown}: the gradient is not finite"
        comparison.find(EMPTY_REPLICA, difference, evidence)
    elif even_agrees and not np.isfinite(seen.loss).all():
        comparison.find(
            EMPTY_REPLICA,
            dataclasses.replace(difference, wrong=()),
            f"{shown}: the loss that the step returns is not finite on one of them",
        )
    elif even_agrees and not difference.agrees:
        _differs(comparison, probe, difference, shown)


def _raises(comparison: Comparison, probe: Probe, error: NotRun) -> None:
    """A step that raises on no rows, and does not with a row in their place."""
    filled = probe.with_a_row_on_each()
    if not error.raised or filled is None:
        raise error
    try:
        comparison.look(comparison.replicas, filled)
    except NotRun:
        raise error from None
    nan = float("nan")
    unknown = Difference(nan, nan, nan, False, False, False, False, (), {})
    evidence = f"{error} With one row on the last replica it runs."
    comparison.find(EMPTY_REPLICA, unknown, evidence, case="raises")


def _differs(
    comparison: Comparison, probe: Probe, difference: Difference, shown: str
) -> None:
    if is_of_accumulation(comparison, probe):
        return
    n, alpha = comparison.replicas, f"alpha = {difference.scale:.4g}"
    known = {finding.cause for finding in comparison.findings}
    if difference.uniform and comparison.tolerance.is_near(
        difference.scale, (n - 1) / n
    ):
        comparison.find(EMPTY_REPLICA, difference, f"{shown}: {alpha}")
    elif MEAN_OF_MEANS.slug not in known:
        comparison.find(UNEXPLAINED, difference, f"empty shard: {alpha}")


CHECK = Check("empty", (EMPTY_REPLICA,), on_replicas=_empty, split="empty")

"""Gradients that are kept from one update to the next, and added to it."""

from __future__ import annotations

import dataclasses

import numpy as np

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import norm, residual_of

LEAST_APART = 0.05  # of the gradients of two batches, to tell them apart

NOT_CLEARED = Cause(
    "gradients-not-cleared",
    "What was accumulated for one update is still there at the next: each update has "
    "the gradients of all before it once more.",
    Remedy(
        "Set the accumulated gradients to zero after each update, on every replica: "
        "for kept in accumulated: kept.assign(tf.zeros_like(kept)).",
        "distloss.DistributedOptimizer(optimizer, accumulation_steps=K, loss=loss)",
        compiled=True,
        arguments=", microbatches=K",
    ),
    made_with="optimizer",
)


def _updates_in_a_row(baseline: Baseline) -> None:
    """Three updates from the same weights: of a batch, and twice of another one.

    Kept gradients make the third that of the first batch and twice the second. What
    weighs older ones less (momentum), keeps only the last, or grows by itself (a rate
    that warms up) gives other factors.
    """
    facts, whole = baseline.facts, baseline.whole()
    half = facts.rows // 2
    if not half:
        return
    window = facts.calls
    one = dataclasses.replace(whole, name="half", micro=(((0, half),),) * window)
    other = dataclasses.replace(one, micro=(((half, 2 * half),),) * window)
    row = dataclasses.replace(
        one, name="in a row", micro=one.micro + 2 * other.micro, held=True
    )
    first, second, third = (
        baseline.look(1, probe).gradient for probe in (one, other, row)
    )
    if not norm(first) or not norm(third):
        return
    if residual_of(second, first) < LEAST_APART:
        return
    factors, left = baseline.tolerance.fit(third, [first, second])
    if left > 30 * facts.rounding or not np.allclose(factors, [1, 2], rtol=0.02):
        return
    evidence = (
        "three updates in a row, of one batch and twice of another, each from the same "
        f"weights: the third has {factors[0]:.3g} times the gradient of the first "
        f"batch and {factors[1]:.3g} times that of the second, where 0 and 1 are right"
    )
    baseline.find(NOT_CLEARED, 1.0, evidence)


def _look(baseline: Baseline) -> None:
    if baseline.is_measured:
        check = "gradients of earlier updates"
        baseline.attempt(check, lambda: _updates_in_a_row(baseline))


CHECK = Check("updates in a row", (NOT_CLEARED,), on_one_device=_look)

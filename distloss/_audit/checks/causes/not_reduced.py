"""Replicas that drift apart, since nobody adds up their gradients."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, Remedy, by_the_optimizer
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference, Observation
from distloss._audit.checks.comparison import Comparison

NOT_REDUCED = Cause(
    "not-reduced",
    "Replicas update with different gradients, so that their weights drift apart: "
    "nobody adds the gradients up.",
    by_the_optimizer(
        "By hand: under Horovod use hvd.DistributedGradientTape; "
        "hvd.DistributedOptimizer does not reduce under Keras 3. Under a strategy call "
        "optimizer.apply_gradients inside strategy.run, with an optimizer that sums "
        "over replicas."
    ),
    cases={
        "apart": (
            "Replicas get the same gradients and make different updates of them, so "
            "that their weights drift apart.",
            Remedy(
                "Give all replicas the same learning rate and the same state of the "
                "optimizer: let them depend on what is reduced over replicas only."
            ),
        ),
        "lost": (
            "The update is made of the rows of some replicas only: the gradients of "
            "the others are lost.",
            Remedy(
                "Add gradients up over replicas before the update (an all-reduce). A "
                "broadcast of gradients or weights hands on those of one replica."
            ),
        ),
    },
)


def _apart(
    comparison: Comparison,
    seen: Observation,
    difference: Difference,
    after: Observation,
) -> bool:
    spread, rounding = max(seen.spread, after.spread), comparison.facts.rounding
    if spread <= rounding:
        return False
    evidence = f"after one step replicas differ by {spread:.2g} of the update"
    case = "apart" if seen.spread <= rounding else ""
    if case:
        evidence += ", and their gradients do not"
    comparison.find(NOT_REDUCED, difference, evidence, case=case)
    return True


CHECK = Check("weights of replicas", (NOT_REDUCED,), on_first_step=_apart)

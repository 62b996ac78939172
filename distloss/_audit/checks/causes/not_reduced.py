"""Replicas that drift apart: nobody adds up their gradients, or updates differ."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, Remedy, by_the_optimizer
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference, Observation
from distloss._audit.checks.comparison import Comparison

_REMEDY = by_the_optimizer(
    "By hand: under Horovod use hvd.DistributedGradientTape; "
    "hvd.DistributedOptimizer does not reduce under Keras 3. Under a strategy call "
    "optimizer.apply_gradients inside strategy.run, with an optimizer that sums "
    "over replicas."
)

NOT_REDUCED = Cause(
    "not-reduced",
    "Replicas update with different gradients, so that their weights drift apart: "
    "nobody adds the gradients up.",
    _REMEDY,
    cases={
        "clipped": (
            "Replicas clip each in its own way, so that they update with different "
            "gradients and their weights drift apart.",
            by_the_optimizer(
                "By hand: sum the gradients over replicas first, then clip, with the "
                "same limit and the norm of the sum on all replicas."
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

UPDATES_APART = Cause(
    "updates-apart",
    "Replicas get the same gradients and make different updates of them, so that their "
    "weights drift apart.",
    Remedy(
        "Give all replicas the same learning rate and the same state of the optimizer: "
        "let them depend on nothing but what is reduced over replicas."
    ),
    made_with="optimizer",
)


def apart(
    comparison: Comparison,
    seen: Observation,
    difference: Difference,
    after: Observation,
    case: str = "",
) -> bool:
    """Notes that replicas drift apart, where they do; `after` shows their weights."""
    spread, rounding = max(seen.spread, after.spread), comparison.facts.rounding
    if spread <= rounding:
        return False
    evidence = f"after one step replicas differ by {spread:.2g} of the update"
    cause = NOT_REDUCED
    is_multiple = difference.uniform and seen.sources == ("weights",)
    if seen.spread <= rounding or is_multiple:
        cause, case = UPDATES_APART, ""
        evidence += ", and their gradients do not"
    comparison.find(cause, difference, evidence, case=case)
    return True


CHECK = Check("weights of replicas", (NOT_REDUCED, UPDATES_APART), on_first_step=apart)

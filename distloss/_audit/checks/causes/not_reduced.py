"""Replicas that drift apart, since nobody adds up their gradients."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, by_the_optimizer
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
        "one replica": (
            "The update is that of one replica: what the others have is lost, and "
            "nobody adds the gradients up.",
            _REMEDY,
        ),
    },
)


def apart(
    comparison: Comparison, seen: Observation, difference: Difference, case: str = ""
) -> bool:
    """Notes that replicas drift apart, where they do."""
    if seen.spread <= comparison.facts.rounding:
        return False
    evidence = f"after one step replicas differ by {seen.spread:.2g} of the update"
    comparison.find(NOT_REDUCED, difference, evidence, case=case)
    return True


CHECK = Check("weights of replicas", (NOT_REDUCED,), on_first_step=apart)

"""A step that is random: two runs of it differ, so nothing can be compared."""

from __future__ import annotations

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check

NONDETERMINISTIC = Cause(
    "nondeterministic",
    "Two runs of the same step on the same rows differ, so that no split can be "
    "compared with another.",
    Remedy("Seed what is random, or turn it off in build()."),
)


def _two_runs(baseline: Baseline) -> None:
    if baseline.is_random:
        evidence = (
            f"two runs on one device differ by {baseline.apart:.2g} of the gradient"
        )
        baseline.find(NONDETERMINISTIC, 1.0, evidence)


CHECK = Check("randomness", (NONDETERMINISTIC,), on_one_device=_two_runs)

"""Variables whose gradients are reduced in different ways."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.comparison import Comparison, Deviation

SCALED_APART = Cause(
    "variables-scaled-apart",
    "Some variables get gradients of another scale than the others.",
    Remedy(
        "Look at how the gradients of these variables are reduced: sparse ones, or "
        "those of one replica, may be summed where others are averaged."
    ),
    may_be_chance=True,
    is_certain=False,
)


def _explain(comparison: Comparison, deviation: Deviation) -> bool:
    limit = 10 * comparison.facts.rounding
    pairs = deviation.difference.variables
    if deviation.difference.uniform:  # one factor for all is no other scale
        return False
    if not pairs or any(rho > limit for _, rho in pairs.values()):
        return False
    names = comparison.facts.names
    scales = ", ".join(f"{names[i]}: {alpha:.3g}" for i, (alpha, _) in pairs.items())
    evidence = f"{deviation.probe.name}: alpha by variable: {scales}"
    comparison.find(SCALED_APART, deviation.difference, evidence, term=deviation.term)
    return True


CHECK = Check("scale of each variable", (SCALED_APART,), explain=_explain)

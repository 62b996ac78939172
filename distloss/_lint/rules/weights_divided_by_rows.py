"""`weights-divided-by-rows`: weighted losses, divided by rows and not by weights."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.quantities import GLOBAL, WEIGHT
from distloss._lint.rules.rule import Hit, Rule, Seen


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        scalar = term.scalar
        step = scalar.last("mean", "average loss")
        by_weight = scalar.power(WEIGHT) < 0 or scalar.power(GLOBAL) < 0
        if scalar.weighted and step is not None and not by_weight and term.is_sum:
            yield Hit(
                step.place,
                "warning",
                "Weighted losses are divided by the number of rows here, not by the "
                "sum of their weights: no weighted mean.",
                "distloss.mean_share(values, weights).",
                losses.weighted_share(term),
            )


RULE = Rule("weights-divided-by-rows", _check)

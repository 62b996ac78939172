"""`scaled-n-squared`: multiplied by the replicas, whose gradients are added up."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.quantities import ALL, REPLICAS
from distloss._lint.rules.rule import Hit, Rule, Seen, severity


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        step = term.scalar.last("multiplied by replicas")
        by_hand = term.scalar.power(REPLICAS) > 0 and term.scalar.numerator != ALL
        if step is None or not by_hand or term.replicas < 1 or not term.is_sum:
            continue
        if term.is_share and term.replicas == 1:  # N times too large: `sum-of-means`
            continue
        yield Hit(
            step.place,
            severity(term),
            "This multiplies by the number of replicas what is added up over replicas "
            "besides.",
            "Take this factor out; distloss.mean_share(values) needs none.",
            losses.share(seen.facts, term),
        )


RULE = Rule("scaled-n-squared", _check)

"""`regularization-not-scaled`: `model.losses` added whole on each replica."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.quantities import PENALTY
from distloss._lint.rules.rule import Hit, Rule, Seen, severity


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        step = term.scalar.last("penalty")
        if term.scalar.numerator != PENALTY or term.replicas != 0 or step is None:
            continue
        yield Hit(
            step.place,
            severity(term),
            "Each replica adds these losses whole, and replicas are added up: "
            "regularisers count N times.",
            "distloss.regularization_share(model.losses).",
            losses.shared_penalty(term),
        )


RULE = Rule("regularization-not-scaled", _check)

"""`added-loss-divided`: a sum over rows that a layer adds, divided by the replicas."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.rules.rule import Hit, Rule, Seen, severity


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        step = term.scalar.last("penalty share")
        if step is None or not term.is_bare_sum or term.replicas != -1:
            continue
        yield Hit(
            step.place,
            severity(term),
            "A layer adds a sum over its rows, which this divides by the number of "
            "replicas: N times too small.",
            "Add sums over rows as they are, tf.add_n(model.losses), and N-th parts of "
            "regularisers only.",
            losses.added_sums(term),
        )


RULE = Rule("added-loss-divided", _check)

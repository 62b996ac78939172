"""`elements-divided-by-rows`: losses of tokens or pixels, divided by rows only."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.quantities import CONSTANT, NOMINAL
from distloss._lint.rules.rule import Hit, Rule, Seen


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        scalar = term.scalar
        by_rows = scalar.power(CONSTANT) < 0 or scalar.power(NOMINAL) < 0
        by_rows = by_rows or scalar.last("guessed batch size") is not None
        step = scalar.last("sum", "average loss")
        has_elements = scalar.rank is not None and scalar.rank > 1
        if by_rows and has_elements and step is not None and term.is_sum:
            yield Hit(
                step.place,
                "warning",
                "The losses of all elements of a row are added up and divided by rows "
                "only: the loss grows with the size of a row.",
                "distloss.mean_share(values) counts elements.",
                losses.share(seen.facts, term, certain=False),
            )


RULE = Rule("elements-divided-by-rows", _check)

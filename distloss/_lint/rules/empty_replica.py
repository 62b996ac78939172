"""`empty-replica`: what a replica without rows does to the step."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.quantities import GLOBAL, LOCAL, WEIGHT
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.updates import Term


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        scalar = term.scalar
        is_share = scalar.power(GLOBAL) == -1 and not scalar.power(LOCAL)
        weighed = scalar.last("mean") if is_share and term.is_sum else None
        guarded = scalar.last("guarded")
        if weighed is not None and scalar.last("multiplied by rows"):
            yield Hit(
                weighed.place,
                "warning",
                "The mean of no rows is NaN, also times 0: a replica that got no rows "
                "spoils the step of all.",
                "Divide the sum by the rows of all: distloss.mean_share(values).",
                losses.share(seen.facts, term),
            )
        elif guarded and _is_mean_of_rows(term):
            yield Hit(
                guarded.place,
                "warning",
                "A replica without rows gives 0 here and counts in the mean over "
                "replicas all the same: the step is too short.",
                "Divide sums by the rows of all: distloss.mean_share(values).",
                losses.share(seen.facts, term),
            )


def _is_mean_of_rows(term: Term) -> bool:
    is_averaged = term.is_local_mean and term.replicas == -1
    return is_averaged and not term.scalar.power(WEIGHT)


RULE = Rule("empty-replica", _check)

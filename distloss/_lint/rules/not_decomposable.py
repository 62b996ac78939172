"""`not-decomposable`: a loss that compares the rows of one replica with each other."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.rules.rule import Hit, Rule, Seen


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        ratio = term.scalar.last("ratio")
        negatives = term.scalar.last("in-batch negatives")
        if ratio is not None:
            yield Hit(
                ratio.place,
                "hint",
                "A ratio of sums over the rows of one replica: no mean of such is the "
                "ratio of the whole batch.",
                "Sum over replicas what it consists of, before the ratio is taken.",
            )
        elif negatives is not None:
            yield Hit(
                negatives.place,
                "hint",
                "Each row is compared with the other rows of its replica only: the "
                "more replicas, the fewer negatives.",
                "Gather the rows of all replicas: context.all_gather(keys, axis=0).",
            )


RULE = Rule("not-decomposable", _check)

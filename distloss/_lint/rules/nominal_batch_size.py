"""`nominal-batch-size`: a sum divided by the rows that a full batch has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.quantities import NOMINAL
from distloss._lint.rules.rule import Hit, Rule, Seen

_SIZE = re.compile(r"batch|rows|size|examples|^\d{2,}$", re.I)


def _check(seen: Seen) -> Iterator[Hit]:
    if any(one.drops for one in seen.facts.batched):
        return
    for term in seen.terms:
        step = term.scalar.last("divided by constant")
        is_nominal = term.is_sum and term.scalar.power(NOMINAL) == -1
        if step is None or term.replicas != 0 or term.scalar.last("mean share"):
            continue
        if is_nominal or (term.is_by_constant and _SIZE.search(step.name)):
            yield Hit(
                step.place,
                "hint",
                "This divides by the rows of a full batch: the rows of a short one "
                "count for less.",
                "Drop short batches (drop_remainder=True), or count rows: "
                "distloss.mean_share(values).",
                losses.share(seen.facts, term, certain=False),
            )


RULE = Rule("nominal-batch-size", _check)

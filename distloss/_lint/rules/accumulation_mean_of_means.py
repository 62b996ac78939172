"""`accumulation-mean-of-means`: micro-batches count alike, whatever their sizes."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.quantities import CONSTANT
from distloss._lint.rules.accumulation_not_averaged import MEANS
from distloss._lint.rules.rule import Hit, Rule, Seen


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        step = term.scalar.last(*MEANS)
        divided = term.scalar.power(CONSTANT) < 0
        is_of_part = term.accumulated and term.scalar.part
        if is_of_part and step is not None and divided:
            yield Hit(
                step.place,
                "warning",
                "Each micro-batch has a mean of its own, and their mean is taken: "
                "wrong where micro-batches hold unequal amounts.",
                "Divide by what the whole step holds, or use "
                "distloss.prepare(model, microbatches=K).",
            )


RULE = Rule("accumulation-mean-of-means", _check)

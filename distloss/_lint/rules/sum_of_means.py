"""`sum-of-means`: each replica takes a mean, and nobody divides by the replicas."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses, models
from distloss._lint.quantities import ALL
from distloss._lint.rules.rule import Hit, Rule, Seen, severity
from distloss._lint.updates import Term
from distloss._lint.values import Place

_MEANS = (
    "mean",
    "local batch size",
    "divided by rows",
    "divided by weight",
    "keras loss",
    "weighted keras loss",
    "guessed batch size",
)


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        if term.compiled is not None and term.is_local_mean and term.replicas == 0:
            yield _of_compiled(seen, term, term.compiled)
        elif term.scalar.numerator == ALL:
            yield from _of_collective(term)
        elif term.is_local_mean and term.replicas == 0:
            yield from _of_mean(seen, term)
        elif term.is_share and term.replicas == 1:
            yield from _of_factor(term)


def _of_mean(seen: Seen, term: Term) -> Iterator[Hit]:
    step = term.scalar.last(*_MEANS)
    if step is None:
        return
    yield Hit(
        step.place,
        severity(term),
        "This is the mean of one replica's rows, and the gradients of all replicas "
        "are added up: N times too large on N replicas.",
        "Take a share of the mean over all rows: distloss.mean_share(values).",
        losses.share(seen.facts, term) or losses.by_all(term),
    )


def _of_compiled(seen: Seen, term: Term, place: Place) -> Hit:
    return Hit(
        place,
        severity(term),
        "This loss returns a scalar, which Keras 3 does not divide by the number of "
        "replicas: N times too large on N replicas.",
        "Return the loss of each row, and add distloss.prepare(model) after compile.",
        models.of_scalar_loss(seen.facts, term),
    )


def _of_factor(term: Term) -> Iterator[Hit]:
    step = term.scalar.last("multiplied by replicas")
    if step is None:
        return
    yield Hit(
        step.place,
        severity(term),
        "This is divided by what all replicas hold, and multiplied by their number. "
        "Gradients of replicas are added up: N times too large on N replicas.",
        "Take this factor out: it belongs where gradients are averaged.",
    )


def _of_collective(term: Term) -> Iterator[Hit]:
    wanted = 1 if term.is_share else 0
    step = term.scalar.last("all-reduced")
    if step is None or term.replicas != wanted or term.is_bare_sum:
        return
    yield Hit(
        step.place,
        severity(term),
        "The loss is summed over replicas while gradients are recorded, so its "
        "gradient is summed over replicas twice: N times too large.",
        "Sum only the denominator over replicas; distloss.mean_share(values) does.",
    )


RULE = Rule("sum-of-means", _check)

"""`divided-twice`: divided by the replicas besides what divides already."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses, models
from distloss._lint.fixes.edits import Mend
from distloss._lint.libraries.losses import OF_ONE
from distloss._lint.libraries.models import is_sum
from distloss._lint.quantities import PENALTY, REPLICAS
from distloss._lint.rules.rule import Hit, Rule, Seen, severity
from distloss._lint.updates import Term, is_prepared
from distloss._lint.values import Value


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        if _is_divided_twice(term):
            yield from _hit(seen, term)
        elif _is_averaged_sum(term):
            yield from _averaged(term)
    for model in seen.facts.compiled:
        if model.where.engine == "strategy" and not is_prepared(model.model):
            yield from _added(model.model)


def _is_divided_twice(term: Term) -> bool:
    by_hand = term.scalar.power(REPLICAS) < 0
    if term.is_local_mean or term.scalar.numerator == PENALTY:
        return term.replicas <= -2 and by_hand
    if term.is_by_constant:
        return term.replicas == -1 and by_hand and not _is_of_one(term)
    is_known = term.is_share or term.is_bare_sum
    return is_known and term.replicas == -1 and by_hand


def _is_of_one(term: Term) -> bool:
    """Whether the constant is called the rows of one replica."""
    step = term.scalar.last("divided by constant")
    return step is not None and OF_ONE.search(step.name) is not None


def _is_averaged_sum(term: Term) -> bool:
    """Whether Horovod averages what is a sum, or a share."""
    is_known = term.is_share or term.is_bare_sum
    is_averaged = term.engine == "horovod" and term.replicas == -1
    return is_known and is_averaged and not term.scalar.power(REPLICAS)


def _hit(seen: Seen, term: Term) -> Iterator[Hit]:
    step = term.scalar.last("divided by replicas", "penalty share")
    # What a layer added and a step divides is another rule's.
    if step is None or (step.kind == "penalty share" and term.is_sum):
        return
    by = (
        "Horovod averages besides" if term.engine == "horovod" else "is divided already"
    )
    yield Hit(
        step.place,
        severity(term) if not term.is_by_constant else "warning",
        f"This divides by the number of replicas what {by}: N times too small.",
        "Take this division out, or use distloss.mean_share(values) alone.",
        _mend(seen, term),
    )


def _mend(seen: Seen, term: Term) -> Mend | None:
    if term.compiled is not None:
        return models.without_factor(seen.facts, term, losses.undivided(term))
    if term.is_local_mean:
        return losses.share(seen.facts, term) or losses.distributed_loss(
            seen.facts, term
        )
    # A constant may be the rows of one replica, and a sum may be meant as one.
    return losses.undivided(term, certain=term.is_share)


def _averaged(term: Term) -> Iterator[Hit]:
    step = term.scalar.last("sum", "mean share", "divided by all rows")
    if step is not None:
        yield Hit(
            step.place,
            "warning",
            "Horovod averages the gradient of this sum over processes: N times "
            "smaller than that of the whole batch.",
            "Give op=hvd.Sum to the tape or the all-reduce.",
        )


def _added(model: Value) -> Iterator[Hit]:
    for one in getattr(model, "state", {}).get("added", ()):
        if is_sum(one.value):
            yield Hit(
                one.place,
                "error" if one.where.sure else "warning",
                "A layer adds a sum over its rows, which Keras divides by the number "
                "of replicas: N times too small.",
                "Add a mean over rows, or the sum times the number of replicas.",
            )


RULE = Rule("divided-twice", _check)

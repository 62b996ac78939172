"""`mean-of-means`: means of replicas are averaged, however much each one holds."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from distloss._lint.facts import Called
from distloss._lint.fixes import losses, models
from distloss._lint.libraries.call import word
from distloss._lint.libraries.distribution import PER_REPLICA
from distloss._lint.quantities import WEIGHT, Step, terms_of
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.updates import Term
from distloss._lint.values import UNKNOWN, Made, Place

_BY_KERAS = ("compiled keras loss", "keras loss", "weighted keras loss")
_MEANS = ("mean", "divided by rows", "divided by weight", "local batch size")


def _check(seen: Seen) -> Iterator[Hit]:
    drops = any(one.drops for one in seen.facts.batched)
    for term in seen.terms:
        if term.is_local_mean and term.replicas == -1:
            yield from _of_term(seen, term, drops=drops)
    yield from _reduced(seen)


def _of_term(seen: Seen, term: Term, *, drops: bool) -> Iterator[Hit]:
    guessed = term.scalar.last("guessed batch size")
    by_keras = term.scalar.last(*_BY_KERAS)
    by_hand = term.scalar.last(*_MEANS)
    if guessed is not None:
        yield Hit(
            guessed.place,
            "warning",
            "Without global_batch_size this takes the rows of this replica times N for "
            "the rows of the batch: wrong where replicas hold unequal numbers.",
            "distloss.mean_share(values) counts the rows of all.",
            losses.share(seen.facts, term),
        )
    elif by_keras is not None:
        is_even = (
            drops
            and by_keras.kind != "weighted keras loss"
            and not term.scalar.weighted
        )
        yield from () if is_even else (_keras(seen, term, by_keras),)
    elif by_hand is not None and not _is_of_no_rows(term):
        yield _hand(seen, term, by_hand.place)


def _is_of_no_rows(term: Term) -> bool:
    """Whether it is guarded for replicas without rows, which is another rule's."""
    guarded = term.scalar.last("guarded")
    return guarded is not None and not term.scalar.power(WEIGHT)


def _keras(seen: Seen, term: Term, step: Step) -> Hit:
    kind = step.kind
    by = "weight" if kind == "weighted keras loss" else "rows, or unmasked elements,"
    remedy = "distloss.DistributedLoss(loss) divides by those of all."
    if term.compiled is not None:
        remedy = "Add distloss.prepare(model) after compile."
    return Hit(
        step.place,
        "hint",
        f"Keras divides this loss by the {by} of each replica and averages: it depends "
        "on how a batch is split where replicas hold unequal amounts.",
        remedy,
        models.of_rows(seen.facts, term) or losses.distributed_loss(seen.facts, term),
    )


def _hand(seen: Seen, term: Term, place: Place) -> Hit:
    by_weight = term.scalar.power(WEIGHT) < 0
    held = "weights or counts" if by_weight else "numbers of rows"
    return Hit(
        place,
        "warning" if by_weight else "hint",
        "The means of replicas are averaged: wrong where replicas hold unequal "
        f"{held}.",
        "Divide sums by what all replicas hold: distloss.mean_share(values, weights)."
        if by_weight
        else "distloss.mean_share(values) counts the rows of all.",
        losses.share(seen.facts, term) or losses.by_all(term),
    )


def _reduced(seen: Seen) -> Iterator[Hit]:
    for call in seen.facts.called:
        if call.name != "strategy.reduce":
            continue
        how = word(call.arguments.get("reduce_op", 0) or UNKNOWN)
        if how == "mean" and (_is_called_loss(call) or _is_differentiated(seen, call)):
            yield Hit(
                call.place,
                "hint",
                "This averages the losses of replicas: not the loss of the batch where "
                "replicas hold unequal numbers of rows.",
                "Let replicas return shares, and reduce with SUM.",
            )


def _is_called_loss(call: Called) -> bool:
    node = call.place.node
    values = [one.value for one in node.args] if isinstance(node, cst.Call) else []
    return any("loss" in call.place.source.code(value).lower() for value in values)


def _is_differentiated(seen: Seen, call: Called) -> bool:
    """Whether it is a loss of which replicas take gradients."""
    value = call.arguments.get("value", 1)
    if not isinstance(value, Made) or value.name != PER_REPLICA:
        return False
    of_updates = {step.place for term in seen.terms for step in term.scalar.steps}
    returned = terms_of(value.state["value"])
    return any(step.place in of_updates for term in returned for step in term.steps)


RULE = Rule("mean-of-means", _check)

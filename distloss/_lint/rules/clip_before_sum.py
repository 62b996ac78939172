"""`clip-before-sum`: each replica clips its own gradient, then they are added up."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import models
from distloss._lint.rules.made import given_to_horovod, keras_3_optimizers
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.values import Const

_ARGUMENTS = ("clipnorm", "clipvalue", "global_clipnorm")


def _check(seen: Seen) -> Iterator[Hit]:
    yield from _by_optimizer(seen)
    for update in seen.facts.applied:
        place = update.gradient.clipped
        if place is not None and update.sums and update.where.engine:
            yield Hit(
                place,
                "error" if update.where.sure else "warning",
                "Each replica clips its own gradient here, before the optimizer adds "
                "them up: not the clipped gradient of the batch.",
                "Sum first: distloss.StrategyReplicas().sum_gradients(gradients). The "
                "optimizer will sum again: give it N-th parts.",
            )


def _by_optimizer(seen: Seen) -> Iterator[Hit]:
    for made in (*keras_3_optimizers(seen.facts), *given_to_horovod(seen.facts)):
        for name in _ARGUMENTS:
            value = made.arguments.keywords.get(name)
            if value is None or (isinstance(value, Const) and value.value is None):
                continue
            yield Hit(
                made.arguments.places.get(name, made.place),
                "error" if made.where.sure else "warning",
                f"Optimizers of Keras 3 apply {name} on each replica, before gradients "
                "are added up: not the clipped gradient of the batch.",
                "distloss.DistributedOptimizer(optimizer), or distloss.prepare(model) "
                "after compile.",
                models.of_optimizer(seen.facts, made),
            )


RULE = Rule("clip-before-sum", _check)

"""`overflow-not-agreed`: loss scaling of Keras 3 looks at one replica only."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import models
from distloss._lint.libraries.call import word
from distloss._lint.rules.made import keras_3_optimizers
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.updates import is_prepared
from distloss._lint.values import UNKNOWN

_MESSAGE = (
    "The loss scaling of Keras 3 looks for overflow on one replica, before gradients "
    "are added up: one that only another replica has reaches all weights."
)


def _check(seen: Seen) -> Iterator[Hit]:
    for made in keras_3_optimizers(seen.facts):
        if made.name.endswith(".LossScaleOptimizer"):
            yield Hit(
                made.place,
                "error" if made.where.sure else "warning",
                _MESSAGE,
                "distloss.DistributedOptimizer(optimizer), or distloss.prepare(model) "
                "after compile.",
                models.of_optimizer(seen.facts, made),
            )
    yield from _by_policy(seen)


def _by_policy(seen: Seen) -> Iterator[Hit]:
    models = [m for m in seen.facts.compiled if m.where.engine == "strategy"]
    if not any(not is_prepared(one.model) for one in models):
        return
    for call in seen.facts.called:
        policy = call.arguments.get("policy", 0) or call.arguments.get("dtype_policy")
        is_half = word(policy or UNKNOWN) == "mixed_float16"
        if call.name == "keras.mixed_precision.set_global_policy" and is_half:
            yield Hit(
                call.place,
                "warning",
                f"compile scales losses for this policy. {_MESSAGE}",
                "Add distloss.prepare(model) after compile.",
            )


RULE = Rule("overflow-not-agreed", _check)

"""`accumulation-under-strategy`: Keras' own accumulation, with several replicas."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.rules.made import keras_3_optimizers
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.values import Const


def _check(seen: Seen) -> Iterator[Hit]:
    for made in keras_3_optimizers(seen.facts):
        steps = made.arguments.keywords.get("gradient_accumulation_steps")
        if steps is None or (isinstance(steps, Const) and steps.value in (None, 1)):
            continue
        yield Hit(
            made.arguments.places.get("gradient_accumulation_steps", made.place),
            "error" if made.where.sure else "warning",
            "gradient_accumulation_steps of Keras 3 raises under MirroredStrategy, and "
            "weighs micro-batches of unequal size alike.",
            "distloss.prepare(model, microbatches=K), or accumulation_steps=K of "
            "distloss.DistributedOptimizer.",
        )


RULE = Rule(
    "accumulation-under-strategy",
    _check,
    "Keras 3 cannot accumulate gradients under a strategy: its optimizers raise, see "
    "https://github.com/keras-team/keras/issues/20582. "
    "distloss.prepare(model, microbatches=K) does.",
)

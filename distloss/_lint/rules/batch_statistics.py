"""`batch-statistics`: BatchNormalization by the rows of one replica."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import models
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.values import Const

_NAME = "keras.layers.BatchNormalization"


def _check(seen: Seen) -> Iterator[Hit]:
    for call in seen.facts.called:
        if call.name != _NAME or call.where.engine != "strategy" or not call.where.sure:
            continue
        synchronized = call.arguments.get("synchronized")
        if synchronized is None or synchronized == Const(False):
            yield Hit(
                call.place,
                "hint",
                "Mean and variance are those of the rows of one replica: with N "
                "replicas the model is another one.",
                "BatchNormalization(synchronized=True), or accept it.",
                models.synchronized(call),
            )


RULE = Rule("batch-statistics", _check)

"""`not-broadcast`: processes of Horovod that start from weights of their own."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.facts import Called, Facts
from distloss._lint.rules.rule import Hit, Rule, Seen

_WORDS = ("broadcast", "elastic")


def starts(facts: Facts) -> Iterator[Called]:
    """Where a script that trains, as far as can be seen, starts Horovod."""
    updates = [one for one in facts.applied if one.where.engine == "horovod"]
    if not (facts.horovod and (updates or facts.compiled)):
        return
    for call in facts.called:
        if call.name in ("hvd.init", "hvd.keras.init") and not call.where.unseen:
            yield call


def _check(seen: Seen) -> Iterator[Hit]:
    calls = seen.facts.called
    if any(word in call.name.lower() for word in _WORDS for call in calls):
        return
    for call in starts(seen.facts):
        yield Hit(
            call.place,
            "hint",
            "This program broadcasts no variables: processes that start from other "
            "weights never agree.",
            "distloss.callbacks.BroadcastState(), or hvd.broadcast_variables.",
        )


RULE = Rule(
    "not-broadcast",
    _check,
    "A program of Horovod whose processes may start from different weights. Broadcast "
    "them, and the optimizer's, before the first step.",
)

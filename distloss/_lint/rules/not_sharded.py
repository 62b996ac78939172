"""`not-sharded`: processes of Horovod that may all read the same rows."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.rules.not_broadcast import starts
from distloss._lint.rules.rule import Hit, Rule, Seen


def _check(seen: Seen) -> Iterator[Hit]:
    calls = seen.facts.called
    if any(call.name.endswith(("hvd.rank", "keras.rank", ".shard")) for call in calls):
        return
    for call in starts(seen.facts):
        yield Hit(
            call.place,
            "hint",
            "This program never asks for its rank: all processes may read the same "
            "rows in the same order.",
            "dataset.shard(hvd.size(), hvd.rank()).",
        )


RULE = Rule(
    "not-sharded",
    _check,
    "A program of Horovod in which nothing tells processes to read different rows. "
    "Shard the data set by rank.",
)

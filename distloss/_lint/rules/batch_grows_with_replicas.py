"""`batch-grows-with-replicas`: each replica gets a batch of the global size."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.values import Const

_OF_ONE = re.compile(r"replica|worker|gpu|core|local", re.I)


def _check(seen: Seen) -> Iterator[Hit]:
    for one in seen.facts.batched:
        size = one.size
        if not one.per_replica or not isinstance(size, Const):
            continue
        if isinstance(size.value, int) and not _OF_ONE.search(size.name):
            yield Hit(
                one.place,
                "warning",
                "Each replica gets a batch of this size: what all of them hold grows "
                "with their number.",
                "Batch by context.get_per_replica_batch_size(global_batch_size).",
            )


RULE = Rule("batch-grows-with-replicas", _check)

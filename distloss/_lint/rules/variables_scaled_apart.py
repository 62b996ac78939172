"""`variables-scaled-apart`: sparse gradients are summed where others are averaged."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.facts import Gradient
from distloss._lint.rules.rule import Hit, Rule, Seen


def _check(seen: Seen) -> Iterator[Hit]:
    calls = seen.facts.called
    averages = any(
        isinstance(call.result, Gradient) and call.result.reduced == "mean"
        for call in calls
        if call.name == "hvd.allreduce"
    )
    for call in calls:
        values = call.arguments.get("values", 0)
        if call.name != "tensorflow.IndexedSlices" or not averages:
            continue
        if isinstance(values, Gradient) and values.reduced == "sum":
            yield Hit(
                call.place,
                "warning",
                "Slices that are gathered are added up, and other gradients are "
                "averaged: embeddings get N times larger steps.",
                "Divide the gathered values by hvd.size(), or sum all gradients.",
            )


RULE = Rule("variables-scaled-apart", _check)

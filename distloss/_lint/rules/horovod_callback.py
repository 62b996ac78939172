"""`horovod-callback`: callbacks of Horovod that know no Keras 3."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.rules.rule import Hit, Rule, Seen

_INSTEAD = {
    "BroadcastGlobalVariablesCallback": "distloss.callbacks.BroadcastState()",
    "MetricAverageCallback": "distloss.callbacks.GlobalMetrics()",
}
_START = "hvd.keras.callbacks."


def _check(seen: Seen) -> Iterator[Hit]:
    for call in seen.facts.called:
        name = call.name.removeprefix(_START)
        if call.name.startswith(_START) and name in _INSTEAD:
            yield Hit(
                call.place,
                "warning",
                f"{name} of Horovod raises AttributeError with Keras 3.",
                f"{_INSTEAD[name]}.",
            )


RULE = Rule(
    "horovod-callback",
    _check,
    "Callbacks of Horovod that use what Keras 3 no longer has. "
    "distloss.callbacks has such for Keras 3.",
)

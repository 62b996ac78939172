"""What several rules ask about objects that a program made."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.facts import Called, Facts
from distloss._lint.libraries.optimizers import KERAS_3, is_of_keras_3
from distloss._lint.updates import is_prepared
from distloss._lint.values import Instance, Made, Value

HOROVOD_OPTIMIZER = ("hvd.DistributedOptimizer", "hvd.keras.DistributedOptimizer")


def keras_3_optimizers(facts: Facts) -> Iterator[Called]:
    """Those that were made under a strategy, and that this package does not mend."""
    prepared = [
        m.arguments.get("optimizer", 0) for m in facts.compiled if is_prepared(m.model)
    ]
    for call in facts.called:
        made = call.result
        if call.where.engine != "strategy" or not call.name.startswith(KERAS_3):
            continue
        if is_of_keras_3(made) and not _is_wrapped(made) and made not in prepared:
            yield call


def _is_wrapped(made: Value) -> bool:
    return isinstance(made, (Made, Instance)) and "wrapped" in made.state


def given_to_horovod(facts: Facts) -> Iterator[Called]:
    """Optimizers of Keras 3 that were given to `hvd.DistributedOptimizer`."""
    given = [optimizer_of(call) for call in horovod_optimizers(facts)]
    for call in facts.called:
        if call.result in given and is_of_keras_3(call.result):
            yield call


def horovod_optimizers(facts: Facts) -> Iterator[Called]:
    """Calls of `hvd.DistributedOptimizer`."""
    return (call for call in facts.called if call.name in HOROVOD_OPTIMIZER)


def optimizer_of(call: Called) -> Value | None:
    """The optimizer that such a call wraps."""
    return call.arguments.get("optimizer", 0)

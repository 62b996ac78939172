"""What several rules ask about objects that a program made."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.facts import Called, Facts
from distloss._lint.libraries.optimizers import KERAS_3, is_of_keras_3
from distloss._lint.updates import is_prepared
from distloss._lint.values import Instance, Items, Made, Mapping, Value

_PREPARE = "distloss.prepare"
HOROVOD_OPTIMIZER = ("hvd.DistributedOptimizer", "hvd.keras.DistributedOptimizer")


def keras_3_optimizers(facts: Facts) -> Iterator[Called]:
    """Those that were made under a strategy, and that this package does not mend."""
    prepared = list(_of_prepared(facts))
    for call in facts.called:
        made = call.result
        if call.where.engine != "strategy" or not call.name.startswith(KERAS_3):
            continue
        if is_of_keras_3(made) and not _is_wrapped(made) and made not in prepared:
            yield call


def _of_prepared(facts: Facts) -> Iterator[Value]:
    """What was compiled into prepared models, and what is in their attributes."""
    for one in facts.compiled:
        if is_prepared(one.model):
            yield from _inside(one.arguments.get("optimizer", 0))
    for call in facts.called:
        model = call.arguments.get("model", 0) if call.name == _PREPARE else None
        if isinstance(model, Instance):
            for value in model.attributes.values():
                yield from _inside(value)


def _inside(value: Value | None) -> Iterator[Value]:
    if isinstance(value, Items):
        for item in value.items:
            yield from _inside(item)
    elif isinstance(value, Mapping):
        for item in value.items.values():
            yield from _inside(item)
    elif value is not None:
        yield value


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

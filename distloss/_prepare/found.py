"""The optimizers that a model holds, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from distloss.optimizers import DistributedOptimizer

_OPTIMIZER = keras.optimizers.Optimizer


class Place(NamedTuple):
    """An attribute of a model or layer that is, or contains, optimizers."""

    owner: Any
    name: str
    value: Any


def places_of_optimizers(model: keras.Model) -> list[Place]:
    """The attributes of `model` and of its layers that hold optimizers.

    One may be an optimizer, or lists, tuples and dicts of them.
    """
    return [
        Place(layer, name, value)
        for layer in model._flatten_layers()
        for name, value in vars(layer).items()
        # those of tf.Module repeat what other attributes hold, for checkpoints
        if not name.startswith("_self_") and any(_optimizers_in(value))
    ]


def optimizers_in(places: list[Place]) -> list[Any]:
    """The optimizers in `places`, each once."""
    found = {id(x): x for place in places for x in _optimizers_in(place.value)}
    return list(found.values())


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value`, in which each optimizer is changed; lists and dicts are new ones."""
    if isinstance(value, _OPTIMIZER):
        return change(value)
    if isinstance(value, dict):
        return {key: replaced(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple):
        changed = [replaced(inner, change) for inner in value]
        return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)
    if isinstance(value, list):
        return [replaced(inner, change) for inner in value]
    return value


def is_distributed(optimizer: Any) -> bool:
    """Whether `optimizer`, or the one that it scales the loss for, is ours."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return isinstance(optimizer, DistributedOptimizer) or isinstance(
        inner, DistributedOptimizer
    )


def _optimizers_in(value: Any) -> Iterator[Any]:
    if isinstance(value, _OPTIMIZER):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _optimizers_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _optimizers_in(inner)

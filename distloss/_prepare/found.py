"""The optimizers that a model holds, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from distloss._keras.compiled_model import layers_of
from distloss._types import OnNonfinite
from distloss.optimizers import DistributedOptimizer
from distloss.optimizers.tf_keras import SumsFirst
from distloss.replicas import Replicas

# Of Keras 3; those of tf-keras are given where a model is of it.
_CLASSES: tuple[type, ...] = (keras.optimizers.Optimizer,)


class Place(NamedTuple):
    """An attribute of a model or layer that is, or contains, optimizers."""

    owner: Any
    name: str
    value: Any


def places_of_optimizers(
    model: Any, classes: tuple[type, ...] = _CLASSES
) -> list[Place]:
    """The attributes of `model` and of its layers that hold optimizers.

    One may be an optimizer, or lists, tuples and dicts of them.
    """
    return [
        Place(layer, name, value)
        for layer in layers_of(model)
        for name, value in vars(layer).items()
        # those of tf.Module repeat what other attributes hold, for checkpoints
        if not name.startswith("_self_") and any(_optimizers_in(value, classes))
    ]


def optimizers_in(
    places: list[Place], classes: tuple[type, ...] = _CLASSES
) -> list[Any]:
    """The optimizers in `places`, each once."""
    found = {id(x): x for place in places for x in _optimizers_in(place.value, classes)}
    return list(found.values())


def distribute_in_place(
    places: list[Place],
    replicas: Replicas | None,
    on_nonfinite: OnNonfinite | None,
    classes: tuple[type, ...] = _CLASSES,
) -> None:
    """Makes each optimizer in `places` a `DistributedOptimizer`, if it is none yet."""
    # All are made before the first is put in its place, for one may be refused.
    ours = {
        id(optimizer): distributed(optimizer, replicas, on_nonfinite)
        for optimizer in optimizers_in(places, classes)
    }
    for owner, name, value in places:
        setattr(owner, name, _replaced(value, lambda x: ours[id(x)], classes))


def distributed(
    optimizer: Any, replicas: Replicas | None, on_nonfinite: OnNonfinite | None
) -> Any:
    """`optimizer` as a `DistributedOptimizer`: itself, if it is one already.

    Its sums are checked where `on_nonfinite` is given.
    """
    if not is_distributed(optimizer):
        check_sums = on_nonfinite is not None
        return DistributedOptimizer(
            optimizer,
            replicas=replicas,
            check_sums=check_sums,
            on_nonfinite=on_nonfinite,
        )
    if on_nonfinite is not None:
        _check_sums(optimizer, on_nonfinite)
    return optimizer  # one around ours, of Keras 3, becomes ours when it is built


def _check_sums(optimizer: Any, on_nonfinite: OnNonfinite) -> None:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, SumsFirst):
        inner.check_sums_and(on_nonfinite, is_scaled=inner is not optimizer)
        return
    ours = optimizer if isinstance(optimizer, DistributedOptimizer) else inner
    ours.check_sums_and(on_nonfinite)


def is_distributed(optimizer: Any) -> bool:
    """Whether `optimizer`, or the one that it scales the loss for, is ours."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return isinstance(inner, DistributedOptimizer | SumsFirst)


def _replaced(
    value: Any, change: Callable[[Any], Any], classes: tuple[type, ...]
) -> Any:
    """`value`, in which each optimizer is changed; lists and dicts are new ones."""
    if isinstance(value, classes):
        return change(value)
    if isinstance(value, dict):
        return {key: _replaced(x, change, classes) for key, x in value.items()}
    if isinstance(value, tuple):
        changed = [_replaced(x, change, classes) for x in value]
        # asked by its name, since tf-keras holds tuples in wrappers
        return value._make(changed) if hasattr(value, "_make") else tuple(changed)
    if isinstance(value, list):
        return [_replaced(x, change, classes) for x in value]
    return value


def _optimizers_in(value: Any, classes: tuple[type, ...]) -> Iterator[Any]:
    if isinstance(value, classes):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _optimizers_in(inner, classes)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _optimizers_in(inner, classes)

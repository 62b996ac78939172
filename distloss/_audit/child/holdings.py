"""What a model, or an object with a training step, holds: variables and optimizers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss._keras.variables import is_of_keras


def attributes_of(thing: Any) -> list[Any]:
    """`thing` and what it holds, one level of lists and dictionaries deep."""
    found = [thing]
    for value in list(getattr(thing, "__dict__", {}).values()):
        if isinstance(value, dict):
            found += list(value.values())
        elif isinstance(value, (list, tuple)):
            found += list(value)
        else:
            found.append(value)
    return found


def optimizers_of(thing: Any) -> list[Any]:
    """The optimizers that it holds, of Keras 3, tf-keras or Horovod."""
    return [one for one in attributes_of(thing) if _is_optimizer(one)]


def variables_of(thing: Any) -> list[Any]:
    """What it trains, and the variables of all that it holds."""
    found = list(thing.trainable_variables)
    for one in attributes_of(thing):
        if isinstance(one, keras.Layer | keras.Metric | tf.Module) or _is_optimizer(
            one
        ):
            found += _own_variables(one)
        elif isinstance(one, tf.Variable) or is_of_keras(one):
            found.append(one)
    return found


def shared_variables(thing: Any, *, is_keras: bool) -> list[Any]:
    """Those that must start from the same values on any number of replicas."""
    trained = list(thing.trainable_variables)
    if not is_keras:
        return trained
    known = {id(v) for v in trained}
    others = [v for v in thing.non_trainable_variables if id(v) not in known]
    return trained + [v for v in others if "seed" not in path_of(v)]


def path_of(variable: Any) -> str:
    """Its name, with those of the layers around it where Keras knows them."""
    return str(getattr(variable, "path", variable.name))


def _own_variables(thing: Any) -> list[Any]:
    try:
        variables = thing.variables  # a method of legacy optimizers of tf-keras
        return list(variables() if callable(variables) else variables)
    except TypeError:  # Horovod's optimizers call what is a list in Keras 3
        return list(thing._variables)


def _is_optimizer(thing: Any) -> bool:
    return callable(getattr(thing, "apply_gradients", None))

"""What optimizers of Keras 3 hold in private attributes, under plain names."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.private_names import of_optimizers as names
from distloss._keras.private_names.private_name import check
from distloss._keras.variables import is_of_keras

# What wrapping an optimizer asks for, and what is put in its place.
_OF_ALL = (
    names.VARIABLES,
    names.TRACKER,
    names.TRACKER_CLASS,
    names.TRACK_FOR_CHECKPOINTS,
    names.VARIABLE_CLASS,
    names.TRAINABLE_VARIABLES,
    names.VARIABLE_INDEX,
    names.CHECK_KNOWN,
    names.FILTER_EMPTY,
    names.STRATEGY,
    names.ALL_REDUCE,
    names.APPLY_GRADIENTS,
    names.UPDATE_STEP,
    names.OVERWRITE,
)
_OF_SCALING = (names.TF_APPLY, names.HANDLE_FINITE)


def check_names_of(optimizer: Any) -> None:
    """Looks whether an optimizer has what distributing it asks for.

    Raises:
      BackendError: Keras lacks something, of which it says what.
    """
    is_scaling = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    check(*_OF_ALL, *(_OF_SCALING if is_scaling else ()), holder=optimizer)


def unpickled(*saved: Any) -> Any:
    """The optimizer of which its `__reduce__` has returned `saved`."""
    return names.UNPICKLE.found()(*saved)


def rule_of(optimizer: Any) -> Any:
    """The one that knows the variables, which a LossScaleOptimizer may not."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def variables_of(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for, in the order of their indices."""
    found: list[Any] = names.TRAINABLE_VARIABLES.of(rule_of(optimizer))
    return found


def indices_of(optimizer: Any, variables: Sequence[Any]) -> list[int]:
    """The places of `variables` among those that the optimizer was built for."""
    return list(map(names.VARIABLE_INDEX.of(rule_of(optimizer)), variables))


def check_was_built_for(optimizer: Any, variables: Sequence[Any]) -> None:
    """Raises the ValueError of Keras where the optimizer does not know a variable."""
    names.CHECK_KNOWN.of(rule_of(optimizer))(variables)


def check_has_any(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    """Raises the ValueError of Keras where no variable has a gradient."""
    if all(gradient is None for gradient in gradients):
        names.FILTER_EMPTY.of(optimizer)(gradients, variables)


def strategy_of(optimizer: Any) -> tf.distribute.Strategy:
    """The strategy in whose scope the optimizer was made."""
    return names.STRATEGY.of(optimizer)


def builder_of(optimizer: Any) -> Any:
    """The `LossScaleOptimizer` that builds the one inside it; called in its `build`.

    None where something else does. Keras tells the one inside nothing of it.
    """
    builder: Any = sys._getframe(2).f_locals.get("self")
    is_scale = isinstance(builder, keras.optimizers.LossScaleOptimizer)
    return builder if is_scale and builder.inner_optimizer is optimizer else None


def copy_of(optimizer: Any) -> dict[str, Any]:
    """The attributes of an optimizer: the same variables, in containers of their own.

    Building one of the two then leaves the other as it was. Keras' tracker puts what an
    optimizer makes into its list of variables, so the copy has a tracker of its own.
    """
    state = {
        name: copy.copy(value) if isinstance(value, list | dict | set) else value
        for name, value in vars(optimizer).items()
    }
    variables = state[names.VARIABLES.name]
    tracker = names.TRACKER_CLASS.found()({"variables": (is_of_keras, variables)})
    tracker.stored_ids["variables"].update(map(id, variables))
    state[names.TRACKER.name] = tracker
    return state


def give(optimizer: Any, state: dict[str, Any]) -> None:
    """Gives the attributes to `optimizer`, instead of running its constructor.

    With its list of variables, which `tf.train.Checkpoint` saves by that name.
    """
    vars(optimizer).update(state)
    track = names.TRACK_FOR_CHECKPOINTS.of(optimizer)
    track(names.VARIABLES.of(optimizer), name=names.VARIABLES.name, overwrite=True)

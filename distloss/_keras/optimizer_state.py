"""What optimizers of Keras 3 hold in private attributes, under plain names."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import Variable  # of which older keras.Variable is a subclass
from keras.src.utils.tracking import Tracker

# Whether optimizers can be pickled at all, which older Keras cannot.
CAN_BE_PICKLED = hasattr(keras.optimizers.Optimizer, "_unpickle_model")


def unpickled(*saved: Any) -> Any:
    """The optimizer of which its `__reduce__` has returned `saved`."""
    return keras.optimizers.Optimizer._unpickle_model(*saved)


def rule_of(optimizer: Any) -> Any:
    """The one that knows the variables, which a LossScaleOptimizer may not."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def variables_of(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for, in the order of their indices."""
    return rule_of(optimizer)._trainable_variables


def indices_of(optimizer: Any, variables: Sequence[Any]) -> list[int]:
    """The places of `variables` among those that the optimizer was built for."""
    return [rule_of(optimizer)._get_variable_index(variable) for variable in variables]


def check_was_built_for(optimizer: Any, variables: Sequence[Any]) -> None:
    """Raises the ValueError of Keras where the optimizer does not know a variable."""
    optimizer._check_variables_are_known(variables)


def check_has_any(optimizer: Any, gradients: list[Any], variables: list[Any]) -> None:
    """Raises the ValueError of Keras where no variable has a gradient."""
    if all(gradient is None for gradient in gradients):
        optimizer._filter_empty_gradients(gradients, variables)


def strategy_of(optimizer: Any) -> tf.distribute.Strategy:
    """The strategy in whose scope the optimizer was made."""
    return optimizer._distribution_strategy


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
    tracker = Tracker({"variables": (_is_variable, state["_variables"])})
    tracker.stored_ids["variables"].update(map(id, state["_variables"]))
    state["_tracker"] = tracker
    return state


def give(optimizer: Any, state: dict[str, Any]) -> None:
    """Gives the attributes to `optimizer`, instead of running its constructor.

    With its list of variables, which `tf.train.Checkpoint` saves by that name.
    """
    vars(optimizer).update(state)
    variables = optimizer._variables
    optimizer._track_trackable(variables, name="_variables", overwrite=True)


def _is_variable(value: Any) -> bool:
    return isinstance(value, Variable)

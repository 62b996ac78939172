"""What layers, variables and metrics do in private methods, and ours in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.model_hooks import Hook


def hook_added_losses(
    layer: keras.Layer,
    add: Callable[..., Any],
    own: Callable[[Any], list[Any]],
    clear: Callable[[Any], None],
) -> None:
    """Lets `add(layer, loss)`, `own(layer)` and `clear(layer)` keep what it adds."""
    if not isinstance(layer.add_loss, Hook):
        layer.add_loss = Hook(add, layer)
        layer._get_own_losses = Hook(own, layer)
        layer._clear_losses = Hook(clear, layer)


def own_losses_of_keras(layer: keras.Layer) -> list[Any]:
    """What Keras knows of what `layer` added."""
    return type(layer)._get_own_losses(layer)


def clear_losses_of_keras(layer: keras.Layer) -> None:
    """Lets Keras forget them."""
    type(layer)._clear_losses(layer)


def hook_assignments(variable: Any, assign: Callable[[Any, Any], None]) -> None:
    """Lets `assign(variable, value)` do what each assignment ends in."""
    if not isinstance(variable._direct_assign, Hook):
        variable._direct_assign = Hook(assign, variable)


def assign_as_keras(variable: Any, value: Any) -> None:
    """What such an assignment does in Keras."""
    type(variable)._direct_assign(variable, value)


def hook_moments(layer: Any, moments: Callable[..., Any]) -> None:
    """Lets `moments(layer, inputs, mask)` give a BatchNormalization its statistics."""
    if not isinstance(layer._moments, Hook):
        layer._moments = Hook(moments, layer)


def moments_of_keras(layer: Any, inputs: tf.Tensor, mask: Any) -> Any:
    """The statistics that Keras computes."""
    return type(layer)._moments(layer, inputs, mask)


def takes_training(model: keras.Model) -> bool:
    """Whether the `call` of `model` has an argument `training`."""
    return bool(model._call_has_training_arg)


def values_of(metric: Any, y_true: Any, y_pred: Any) -> Any:
    """What the function of a metric gives, before the metric takes its mean."""
    return metric._fn(y_true, y_pred, **metric._fn_kwargs)


def arguments_of(loss: Any) -> dict[str, Any]:
    """The arguments that a loss of Keras passes on to its function."""
    return getattr(loss, "_fn_kwargs", {})


def sum_of_added_as_keras(model: keras.Model, added: Any) -> tf.Tensor:
    """What Keras makes of one loss that a layer added."""
    return type(model)._aggregate_additional_loss(model, added)


def hook_sum_of_added(model: keras.Model, weighed: Hook) -> None:
    """Lets `weighed(added)` make it."""
    model._aggregate_additional_loss = weighed

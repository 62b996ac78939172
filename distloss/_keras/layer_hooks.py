"""What layers, variables and metrics do in private methods, and ours in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.model_hooks import Hook
from distloss._keras.private_names import of_layers_and_losses as names
from distloss._keras.private_names.of_models import (
    AGGREGATE_ADDITIONAL_LOSS,
    CALL_HAS_TRAINING_ARG,
)


def hook_added_losses(
    layer: keras.Layer,
    add: Callable[..., Any],
    own: Callable[[Any], list[Any]],
    clear: Callable[[Any], None],
) -> None:
    """Lets `add(layer, loss)`, `own(layer)` and `clear(layer)` keep what it adds."""
    if not isinstance(layer.add_loss, Hook):
        layer.add_loss = Hook(add, layer)
        names.GET_OWN_LOSSES.put(layer, Hook(own, layer))
        names.CLEAR_LOSSES.put(layer, Hook(clear, layer))


def own_losses_of_keras(layer: keras.Layer) -> list[Any]:
    """What Keras knows of what `layer` added."""
    own: list[Any] = names.GET_OWN_LOSSES.of(type(layer))(layer)
    return own


def clear_losses_of_keras(layer: keras.Layer) -> None:
    """Lets Keras forget them."""
    names.CLEAR_LOSSES.of(type(layer))(layer)


def hook_assignments(variable: Any, assign: Callable[[Any, Any], None]) -> None:
    """Lets `assign(variable, value)` do what each assignment ends in."""
    if not isinstance(names.DIRECT_ASSIGN.of(variable), Hook):
        names.DIRECT_ASSIGN.put(variable, Hook(assign, variable))


def assign_as_keras(variable: Any, value: Any) -> None:
    """What such an assignment does in Keras."""
    names.DIRECT_ASSIGN.of(type(variable))(variable, value)


def hook_moments(layer: Any, moments: Callable[..., Any]) -> None:
    """Lets `moments(layer, inputs, mask)` give a BatchNormalization its statistics."""
    if not isinstance(names.MOMENTS.of(layer), Hook):
        names.MOMENTS.put(layer, Hook(moments, layer))


def moments_of_keras(layer: Any, inputs: tf.Tensor, mask: Any) -> Any:
    """The statistics that Keras computes."""
    return names.MOMENTS.of(type(layer))(layer, inputs, mask)


def takes_training(model: keras.Model) -> bool:
    """Whether the `call` of `model` has an argument `training`."""
    return bool(CALL_HAS_TRAINING_ARG.of(model))


def values_of(metric: Any, y_true: Any, y_pred: Any) -> Any:
    """What the function of a metric gives, before the metric takes its mean."""
    function = names.METRIC_FUNCTION.of(metric)
    return function(y_true, y_pred, **names.METRIC_ARGUMENTS.of(metric))


def arguments_of(loss: Any) -> dict[str, Any]:
    """The arguments that a loss of Keras passes on to its function."""
    if isinstance(loss, names.LOSS_OF_FUNCTION.found()):
        return dict(names.LOSS_ARGUMENTS.of(loss))
    return dict(getattr(loss, names.LOSS_ARGUMENTS.name, {}))  # so in tf-keras


def sum_of_added_as_keras(model: keras.Model, added: Any) -> tf.Tensor:
    """What Keras makes of one loss that a layer added."""
    return AGGREGATE_ADDITIONAL_LOSS.of(type(model))(model, added)


def hook_sum_of_added(model: keras.Model, weighed: Hook) -> None:
    """Lets `weighed(added)` make it."""
    AGGREGATE_ADDITIONAL_LOSS.put(model, weighed)

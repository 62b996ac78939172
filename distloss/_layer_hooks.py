"""What layers do to a step besides their outputs, kept apart for each replica.

Replicas run as threads that take turns, and each collective passes the turn on, also
that of a synchronised BatchNormalization in the middle of the forward pass. A layer
keeps what it adds with `add_loss` in one list for all of them, which the next replica's
call of the model clears.
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/layers/layer.py

And a replica without rows computes with a row of zeros (see `_empty`), of which moving
averages must not hear.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss import _denominators
from distloss._denominators import Step
from distloss._model_hooks import Hook


def predictions(model: keras.Model, step: Step, x: Any, *, training: bool) -> Any:
    """`model(x)` in `step`; `model.losses` are then those of this replica."""
    _hook_layers(model)
    given = {"training": training} if model._call_has_training_arg else {}
    y_pred = model(x, **given)
    for layer, losses in step.added.items():
        layer._losses[:] = losses
    return y_pred


def was_added(step: Step, loss: Any) -> bool:
    """Whether a layer added `loss`, which is no regulariser of weights then."""
    return any(loss is own for losses in step.added.values() for own in losses)


def _hook_layers(model: keras.Model) -> None:
    for layer in model._flatten_layers():
        if not isinstance(layer.add_loss, Hook):
            layer.add_loss = Hook(_add_loss, layer)
        is_normalization = isinstance(layer, keras.layers.BatchNormalization)
        if is_normalization and not isinstance(layer._moments, Hook):
            layer._moments = Hook(_moments, layer)
    for variable in model.non_trainable_variables:
        is_average = keras.backend.is_float_dtype(variable.dtype)
        if is_average and not isinstance(variable._direct_assign, Hook):
            variable._direct_assign = Hook(_assign, variable)


def _add_loss(layer: keras.Layer, loss: Any) -> None:
    type(layer).add_loss(layer, loss)
    step = _denominators.current_step()
    if step is not None:
        step.added.setdefault(layer, []).extend(keras.tree.flatten(loss))


def _assign(variable: keras.Variable, value: Any) -> None:
    step = _denominators.current_step()
    if step is not None and step.may_be_empty and not step.in_loss:
        own = tf.convert_to_tensor(variable.value)
        value = tf.where(step.rows > 0, tf.cast(value, own.dtype), own)
    type(variable)._direct_assign(variable, value)


def _moments(layer: Any, inputs: tf.Tensor, mask: Any) -> Any:
    step = _denominators.current_step()
    if step is None or not (step.may_be_empty and layer.synchronized):
        return type(layer)._moments(layer, inputs, mask)
    # The sums over replicas count the elements that there are, so none may be made up.
    count = tf.where(step.rows > 0, tf.shape(inputs)[0], 0)
    mask = None if mask is None else mask[:count]
    moments = type(layer)._moments(layer, inputs[:count], mask)
    return tuple(_without_its_gradient(moment, step) for moment in moments)


def _without_its_gradient(value: tf.Tensor, step: Step) -> tf.Tensor:
    """`value`, whose gradient is 0 on a replica without rows.

    That of the row of zeros may be NaN, and would reach all others by a collective.
    """

    @tf.custom_gradient
    def selected(value: tf.Tensor) -> Any:
        return tf.identity(value), step.of_rows

    return selected(value)

"""What layers do to a step besides their outputs, kept apart for each replica.

Replicas run as threads that take turns, and each collective passes the turn on, also
that of a synchronised BatchNormalization in the middle of the forward pass. A layer
keeps what it adds with `add_loss` in one list for all of them, which the next replica's
call of the model clears.
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/layers/layer.py

And a replica without rows computes with a row of zeros (see `_formula.empty`), of
which moving averages must not hear.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from distloss._formula.row_weights import RowWeightedContext, row_weighted_context
from distloss._formula.step_context import StepContext, current_step
from distloss._keras.compiled_model import layers_of
from distloss._keras.layer_hooks import (
    assign_as_keras,
    clear_losses_of_keras,
    hook_added_losses,
    hook_assignments,
    hook_moments,
    moments_of_keras,
    own_losses_of_keras,
    takes_training,
)
from distloss._prepare.graphs import comes_from
from distloss.replicas import StrategyReplicas


def predictions(
    model: keras.Model, step: StepContext, x: Any, *, training: bool
) -> Any:
    """`model(x)` in `step`, in which `model.losses` are those of this replica."""
    hook_layers(model)
    given = {"training": training} if takes_training(model) else {}
    with _watched_for_meetings(step):
        return model(x, **given)


class _Inside:
    """How many replicas of this process are in their forward pass.

    One at a time, as long as none of them waits for the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.met = False

    def enter(self) -> None:
        with self._lock:
            self.met = self._count > 0
            self._count += 1

    def leave(self) -> None:
        with self._lock:
            self._count -= 1


_inside = _Inside()
_COLLECTIVES = ("Collective", "CrossReplicaSum", "AllToAll", "Horovod")
_CALLS = ("StatefulPartitionedCall", "PartitionedCall")  # which may hold one


@contextlib.contextmanager
def _watched_for_meetings(step: StepContext) -> Iterator[None]:
    """Notes in `step` whether layers may have met those of other replicas."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = 0 if graph is None else len(graph.get_operations())
    _inside.enter()
    try:
        yield
    finally:
        _inside.leave()
    if graph is None:  # nothing tells what an eager one did
        step.met_others = True
        return
    types = {operation.type for operation in graph.get_operations()[before:]}
    is_collective = any(kind.startswith((*_COLLECTIVES, *_CALLS)) for kind in types)
    step.met_others = _inside.met or is_collective


def was_added(step: StepContext, loss: Any) -> bool:
    """Whether a layer added `loss`, which is no regulariser of weights then."""
    return any(loss is own for losses in step.added.values() for own in losses)


def hook_layers(model: keras.Model) -> None:
    """Lets the layers of `model` keep apart what they do in steps of replicas."""
    for layer in layers_of(model):
        hook_added_losses(layer, _add_loss, _own_losses, _clear_losses)
        if isinstance(layer, keras.layers.BatchNormalization):
            hook_moments(layer, _moments)
    for variable in _averages_of_own_rows(model):
        hook_assignments(variable, _assign)


def keep_without_rows(variables: list[Any]) -> None:
    """Lets variables of metrics stay as they are on a replica without rows."""
    for variable in variables:
        hook_assignments(variable, _assign_metric)


def _averages_of_own_rows(model: keras.Model) -> list[Any]:
    """What layers keep of the rows of their replica, and not of all."""
    layers = [x for x in layers_of(model) if getattr(x, "synchronized", False)]
    of_all_rows = {id(v) for layer in layers for v in layer.variables}
    return [
        variable
        for variable in model.non_trainable_variables
        if id(variable) not in of_all_rows
        and keras.backend.is_float_dtype(variable.dtype)
    ]


def _add_loss(layer: keras.Layer, loss: Any) -> None:
    type(layer).add_loss(layer, loss)
    step = current_step()
    if step is not None:
        step.added.setdefault(layer, []).extend(keras.tree.flatten(loss))


def _own_losses(layer: keras.Layer) -> list[Any]:
    step = current_step()
    if step is None:
        return own_losses_of_keras(layer)
    return list(step.added.get(layer, []))


def _clear_losses(layer: keras.Layer) -> None:
    clear_losses_of_keras(layer)
    step = current_step()
    if step is not None:
        step.added.pop(layer, None)


def _assign(variable: keras.Variable, value: Any) -> None:
    step = current_step()
    if step is not None and step.may_be_empty and _is_of_its_rows(value, step):
        value = _or_as_it_is(variable, value, step)
    assign_as_keras(variable, value)


def _assign_metric(variable: keras.Variable, value: Any) -> None:
    step = row_weighted_context()
    if step is not None and step.may_be_empty:
        value = _or_as_it_is(variable, value, step)
    assign_as_keras(variable, value)


def _is_of_its_rows(value: Any, step: StepContext) -> bool:
    """Whether a replica's rows made `value`, and not weights, which all share."""
    if isinstance(step, RowWeightedContext):
        return comes_from(tf.convert_to_tensor(value), step.inputs)
    return not step.in_loss


def _or_as_it_is(variable: keras.Variable, value: Any, step: StepContext) -> tf.Tensor:
    own = tf.convert_to_tensor(variable.value)
    return tf.where(step.rows > 0, tf.cast(value, own.dtype), own)


def _moments(layer: Any, inputs: tf.Tensor, mask: Any) -> Any:
    step = current_step()
    if step is None or not layer.synchronized:
        return moments_of_keras(layer, inputs, mask)
    if step.may_be_empty:
        # The sums over replicas count the elements that there are: none is made up.
        count = tf.where(step.rows > 0, tf.shape(inputs)[0], 0)
        inputs, mask = inputs[:count], None if mask is None else mask[:count]
    if mask is None:
        moments = moments_of_keras(layer, inputs, mask)
    else:
        moments = _moments_of_all_kept(layer.axis, inputs, mask)
    if not step.may_be_empty:
        return moments
    return tuple(_without_its_gradient(moment, step) for moment in moments)


def _moments_of_all_kept(axis: int, inputs: tf.Tensor, mask: Any) -> Any:
    """Mean and variance of what is not masked, on all replicas.

    Where there is a mask, Keras takes those of a replica, `synchronized` or not.
    https://github.com/keras-team/keras/blob/v3.12.0/keras/src/layers/normalization/batch_normalization.py
    """
    kept = tf.broadcast_to(tf.cast(mask, tf.bool)[..., tf.newaxis], tf.shape(inputs))
    ones = [1] * inputs.shape.rank
    ones[axis] = -1  # the shape of a mean in which it can be broadcast
    axes = [i for i, size in enumerate(ones) if size == 1]

    def of_all(*values: tf.Tensor) -> list[tf.Tensor]:
        own = [tf.reduce_sum(tf.where(kept, value, 0), axes) for value in values]
        return tf.unstack(StrategyReplicas().sum(tf.stack(own), "moments"))

    total, count = of_all(inputs, tf.ones_like(inputs))
    count += keras.backend.epsilon()
    mean = total / count
    (squares,) = of_all(tf.square(inputs - tf.reshape(mean, ones)))
    return mean, squares / count


def _without_its_gradient(value: tf.Tensor, step: StepContext) -> tf.Tensor:
    """`value`, whose gradient is 0 on a replica without rows.

    That of the row of zeros may be NaN, and would reach all others by a collective.
    """

    @tf.custom_gradient
    def selected(value: tf.Tensor) -> Any:
        return tf.identity(value), step.of_rows

    return selected(value)

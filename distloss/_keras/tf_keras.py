"""What is of tf-keras (Keras 2), which stays optional.

It is imported only where the user passes something of it, or has made
`tf.keras` tf-keras with TF_USE_LEGACY_KERAS=1.
"""

from __future__ import annotations

import functools
import importlib
import operator
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.private_names import of_others as names


def is_of_tf_keras(value: Any) -> bool:
    """Whether `value` is of tf-keras, or of no Keras while `tf.keras` is tf-keras.

    Identifiers such as "mse" and functions of the user are of no Keras.
    """
    is_definition = isinstance(value, type | types.FunctionType)
    definition: Any = value if is_definition else type(value)
    definitions = getattr(definition, "__mro__", [definition])
    packages = {str(x.__module__).partition(".")[0] for x in definitions}
    if packages & {"keras", "tf_keras"}:
        return "tf_keras" in packages
    return is_default()


def is_default() -> bool:
    """Whether `tf.keras` is tf-keras."""
    wanted = os.environ.get("TF_USE_LEGACY_KERAS") in ("true", "True", "1")
    return wanted and tf.keras.Model.__module__.startswith("tf_keras.")


def is_model(value: Any) -> bool:
    """Whether `value` is a model of tf-keras."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(value, tf_keras.Model)


def make_variables(optimizer: Any, variables: Sequence[Any]) -> None:
    """Makes the variables of an optimizer of either Keras, where there are none."""
    if _is_legacy(optimizer):
        names.CREATE_ALL_WEIGHTS.of(optimizer)(variables)
    elif not getattr(optimizer, "built", False):
        optimizer.build(variables)  # tf-keras makes none where there are some


def _is_legacy(optimizer: Any) -> bool:
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(
        optimizer, tf_keras.optimizers.legacy.Optimizer
    )


def model_class() -> Any:
    """`tf_keras.Model`."""
    return importlib.import_module("tf_keras").Model


@functools.cache
def class_of(ours: type, base: str, name: str) -> Any:
    """The class `name` of `ours` and `base`, such as "losses.Loss", of tf-keras."""
    tf_keras = importlib.import_module("tf_keras")
    made = type(name, (ours, operator.attrgetter(base)(tf_keras)), {})
    made.__module__ = ours.__module__
    return tf_keras.saving.register_keras_serializable("distloss")(made)


class Callback(keras.callbacks.Callback):
    """A callback of Keras 3 that `fit` of tf-keras (Keras 2) takes as well.

    That asks callbacks for which batches they have something to do:
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/callbacks.py
    """

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False


def set_inner(scaled: Any, optimizer: Any) -> None:
    """Gives a LossScaleOptimizer of tf-keras another one to update with."""
    names.INNER.put(scaled, optimizer)


def forget_functions(model: Any) -> None:
    """Lets `fit` make the functions of its steps anew."""
    names.COMPILE_CACHE.of(model)()


def hook_compile_arguments(
    model: Any, changed: Callable[[Any, dict[str, Any]], dict[str, Any]]
) -> None:
    """Lets `changed(model, arguments)` give what files hold of `compile`."""

    def arguments(user_metrics: bool = True) -> dict[str, Any]:
        given = names.COMPILE_ARGUMENTS.of(type(model))
        return changed(model, given(model, user_metrics))

    names.COMPILE_ARGUMENTS.put(model, arguments)


def hook_moments(layer: Any, moments: Callable[..., Any]) -> None:
    """Lets `moments(layer, ...)` give a synchronised normalization its statistics."""
    sync = importlib.import_module("tf_keras").layers.experimental
    if isinstance(layer, sync.SyncBatchNormalization) or hasattr(
        layer, names.SYNC_MOMENTS.name
    ):
        names.SYNC_MOMENTS.put(layer, functools.partial(moments, layer))


def moments_of_tf_keras(
    layer: Any, x: Any, axes: Any, keep_dims: Any, mask: Any
) -> Any:
    """The statistics that tf-keras computes."""
    own = names.SYNC_MOMENTS.of(type(layer))
    return own(layer, x, axes, keep_dims, mask=mask)


def own_statistics_of(layer: Any) -> list[Any]:
    """Variables of `layer` itself of which each replica has its own."""
    own = tf.VariableSynchronization.ON_READ
    return [
        variable
        for variable in names.STATISTICS.of(layer)
        if isinstance(variable, tf.distribute.DistributedValues)
        and variable.synchronization == own
    ]


def strategy_of(optimizer: Any) -> tf.distribute.Strategy | None:
    """In whose scope it was made; None for a legacy one, which looks it up later."""
    return None if _is_legacy(optimizer) else names.OPTIMIZER_STRATEGY.of(optimizer)


def function_of(metric: Any) -> Any:
    """What a metric takes the mean of; None for one that has no function."""
    name = names.METRIC_FUNCTION_OF_TF_KERAS
    is_of_function = isinstance(metric, name.owners())
    return name.of(metric) if is_of_function else getattr(metric, name.name, None)


def set_function(metric: Any, function: Callable[..., Any]) -> None:
    """Lets `metric` take the mean of what `function` gives."""
    names.METRIC_FUNCTION_OF_TF_KERAS.put(metric, function)

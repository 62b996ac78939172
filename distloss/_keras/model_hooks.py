"""What distloss replaces in Keras models, and what it leaves as it was."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._keras.compiled_model import is_keras_3
from distloss._keras.private_names.of_models import METRICS_RESULT_OR_LOGS
from distloss._keras.private_names.of_others import METRICS_RESULT
from distloss._keras.private_names.private_name import PrivateName

if TYPE_CHECKING:  # a floor above, of which it is only given objects
    from distloss.replicas import Replicas

# What to use instead of Horovod's callbacks that fail on Keras 3.
_INSTEAD = {
    "BroadcastGlobalVariablesCallback": "distloss.callbacks.BroadcastState()",
    "MetricAverageCallback": "nothing, since a prepared model reports over all "
    "processes; one that is not, with distloss.callbacks.GlobalMetrics()",
    "LearningRateScheduleCallback": "keras.callbacks.LearningRateScheduler(schedule)",
    "LearningRateWarmupCallback": "a schedule of the optimizer that warms up, such as "
    "keras.optimizers.schedules.CosineDecay(..., warmup_target=, warmup_steps=)",
    "BestModelCheckpoint": "keras.callbacks.ModelCheckpoint(path, save_best_only=True) "
    "on one process",
}


class Hook(functools.partial[Any]):
    """A method of a model, replaced by one of ours."""


def report_global_metrics(
    model: Any, replicas: Replicas, told: dict[str, Any] | None = None
) -> None:
    """Lets `fit` and `evaluate` of `model`, of either Keras, report over all replicas.

    And lets `fit` refuse callbacks of Horovod that fail on Keras 3.

    Args:
      model: of either Keras.
      replicas: who shares the batch.
      told: metrics by the names under which a step of the model's own returns them.
    """
    # Each Keras calls this once per epoch and evaluation, for what it will report.
    # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/trainers/trainer.py
    # https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/engine/training.py
    name = METRICS_RESULT_OR_LOGS if is_keras_3(model) else METRICS_RESULT
    hooked = vars(model).get(name.name)
    if told is None and isinstance(hooked, Hook):
        told = hooked.args[-1]  # of a prepared model, to which a callback comes as well
    name.put(model, Hook(_global_results_or_logs, model, replicas, name, told))
    if is_keras_3(model) and not replicas.keras_sums_metrics:
        model.fit = Hook(_fit, model)


def _global_results_or_logs(
    model: Any,
    replicas: Replicas,
    name: PrivateName,
    told: dict[str, Any] | None,
    logs: Any,
) -> Any:
    metrics = {id(m): m for m in [*model.metrics, *(told or {}).values()]}.values()

    def results_or_logs() -> Any:
        if not replicas.keras_sums_metrics:
            for variable in (v for metric in metrics for v in metric.variables):
                # Summed one by one, since they are few and of several dtypes.
                variable.assign(_over_replicas(variable, replicas))
        found = name.of(type(model))(model, logs)
        return {**found, **_results(told, found)} if told else found

    if replicas.keras_sums_metrics:
        return results_or_logs()
    return unseen_by(list(metrics), results_or_logs)


def _results(told: dict[str, Any], logs: Any) -> dict[str, Any]:
    """The results of all replicas, of which the last step of one may know a part."""
    return {name: metric.result() for name, metric in told.items() if name in logs}


def _over_replicas(variable: Any, replicas: Replicas) -> tf.Tensor:
    value = tf.identity(tf.convert_to_tensor(variable))
    # a word in Keras 3, of an enumeration in TensorFlow
    how = getattr(variable.aggregation, "name", variable.aggregation)
    if how.lower() not in ("sum", "mean"):
        return value  # the same on all, such as thresholds
    exact = value if value.dtype.is_floating else tf.cast(value, tf.float64)
    total = replicas.sum(exact, "metric")
    if how.lower() == "mean":
        total = total / replicas.count_as(total.dtype)
    return tf.cast(total, value.dtype)


def _fit(model: keras.Model, *args: Any, **kwargs: Any) -> Any:
    fit = functools.partial(type(model).fit, model)
    given = inspect.signature(fit).bind(*args, **kwargs).arguments.get("callbacks")
    callbacks = getattr(given, "callbacks", given) or []
    for callback in keras.tree.flatten(callbacks):
        _refuse_horovods(callback)
    return fit(*args, **kwargs)


def _refuse_horovods(callback: Any) -> None:
    for cls in type(callback).__mro__:
        if cls.__module__.startswith("horovod.") and cls.__name__ in _INSTEAD:
            raise ArgumentError(
                "Expected callbacks that work with Keras 3. Got hvd.callbacks."
                f"{cls.__name__}, which asks Keras for what it no longer has. Use "
                f"{_INSTEAD[cls.__name__]}."
            )


def unseen_by(metrics: list[Any], function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, after which `metrics` are what they were."""
    variables = [variable for metric in metrics for variable in metric.variables]
    values = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    try:
        return function(*args)
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

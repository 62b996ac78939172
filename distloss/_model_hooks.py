"""What distloss replaces in Keras models, and what it leaves as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss.replicas import Replicas


class Hook(functools.partial[Any]):
    """A method of a model, replaced by one of ours."""


def report_global_metrics(model: keras.Model, replicas: Replicas) -> None:
    """Lets `fit` and `evaluate` of `model` report over all replicas."""
    # Keras calls this once per epoch and evaluation, for what it will report.
    # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/trainers/trainer.py
    hook = Hook(_global_results_or_logs, model, replicas)
    model._get_metrics_result_or_logs = hook


def _global_results_or_logs(model: keras.Model, replicas: Replicas, logs: Any) -> Any:
    def results_or_logs() -> Any:
        for variable in (v for metric in model.metrics for v in metric.variables):
            # Summed one by one, since they are few and of several dtypes.
            variable.assign(_over_replicas(variable, replicas))
        return type(model)._get_metrics_result_or_logs(model, logs)

    return unseen_by(model.metrics, results_or_logs)


def _over_replicas(variable: keras.Variable, replicas: Replicas) -> tf.Tensor:
    value = tf.identity(variable.value)
    if variable.aggregation not in ("sum", "mean"):
        return value  # the same on all, such as thresholds
    exact = value if value.dtype.is_floating else tf.cast(value, tf.float64)
    total = replicas.sum(exact, "metric")
    if variable.aggregation == "mean":
        total = total / replicas.count_as(total.dtype)
    return tf.cast(total, value.dtype)


def unseen_by(metrics: list[Any], function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, after which `metrics` are what they were."""
    variables = [variable for metric in metrics for variable in metric.variables]
    values = [tf.identity(tf.convert_to_tensor(variable)) for variable in variables]
    try:
        return function(*args)
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

"""Metric functions that return one number for a batch, not one for each row.

Keras takes the mean of such numbers, each counted once. A replica has only a part of
the batch, or none: its number counts by its rows, so that all of them count once.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss._formula import reduce
from distloss._formula.step_context import current_step
from distloss._keras.layer_hooks import values_of
from distloss._keras.model_hooks import Hook
from distloss.replicas import Replicas


def weigh_scalar_metrics(metrics: list[Any], replicas: Replicas) -> None:
    """Lets those of `metrics` that are functions do so, in steps of a model."""
    for metric in metrics:
        is_function = isinstance(metric, keras.metrics.MeanMetricWrapper)
        if is_function and not isinstance(metric.update_state, Hook):
            metric.update_state = Hook(_update_state, metric, replicas)


def _update_state(
    metric: Any, replicas: Replicas, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    step = current_step()
    if step is not None and sample_weight is None:
        value = tf.convert_to_tensor(values_of(metric, y_true, y_pred))
        if value.shape.rank == 0:
            value = tf.where(step.rows > 0, value, tf.zeros_like(value))
            share = reduce.share(step.rows, step.count_rows(replicas))
            return keras.metrics.Mean.update_state(metric, value, sample_weight=share)
    return type(metric).update_state(metric, y_true, y_pred, sample_weight)

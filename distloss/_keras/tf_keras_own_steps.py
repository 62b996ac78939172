"""What a step that a user wrote calls in tf-keras (Keras 2), and what can be replaced.

Its losses refuse to take means in a step of replicas, what was compiled is divided by
their number, and optimizers sum unweighed. In a step whose gradients are weighed by
rows none of this may be. Each function is replaced once, for good, and asks at each
call whether it is in such a step; anywhere else it is that of tf-keras.
https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/losses.py
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distloss._keras.model_hooks import Hook

_Function = Callable[..., Any]


def replace_reductions(
    masked: _Function, reduced: _Function, scaled: _Function, reduction: _Function
) -> None:
    """Puts four functions in the place of those of tf-keras, which they get first.

    Args:
      masked: `(of_keras, values, sample_weight, mask, reduction)`, the weights of which
        masked values have none.
      reduced: `(of_keras, values, sample_weight, reduction, name)`, what a loss makes
        of its element losses and the former.
      scaled: `(of_keras, value)`, what divides by the number of replicas.
      reduction: `(of_keras, loss)`, the name of what a loss does, where it may.
    """
    utils = importlib.import_module("tf_keras.src.utils.losses_utils")
    for name, ours in (
        ("apply_valid_mask", masked),
        ("compute_weighted_loss", reduced),
        ("scale_loss_for_distribution", scaled),
    ):
        of_keras = getattr(utils, name)
        if not isinstance(of_keras, Hook):
            setattr(utils, name, Hook(ours, of_keras))
    _replace_method(_tf_keras().losses.Loss, "_get_reduction", reduction)


def watch_updates(watched: _Function) -> None:
    """Calls `watched(of_keras, optimizer, ...)` for any update of tf-keras."""
    scaling = importlib.import_module(
        "tf_keras.src.mixed_precision.loss_scale_optimizer"
    )
    for kind in (
        _tf_keras().optimizers.Optimizer,
        _tf_keras().optimizers.legacy.Optimizer,
        scaling.LossScaleOptimizer,
        scaling.LossScaleOptimizerV3,
    ):
        _replace_method(kind, "apply_gradients", watched)


def watch_metrics(made: Callable[[Any], None]) -> None:
    """Calls `made(metric)` for each metric that is made, before its `__init__`."""
    kind = _tf_keras().metrics.Metric
    of_keras = kind.__new__
    if hasattr(of_keras, "is_ours"):
        return

    @functools.wraps(of_keras)
    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        metric = of_keras(cls, *args, **kwargs)
        made(metric)
        return metric

    new.is_ours = True  # type: ignore[attr-defined]
    kind.__new__ = new


def _tf_keras() -> Any:
    return importlib.import_module("tf_keras")


def _replace_method(kind: Any, name: str, ours: _Function) -> None:
    of_keras = vars(kind)[name]
    if hasattr(of_keras, "is_ours"):
        return

    @functools.wraps(of_keras)
    def method(*args: Any, **kwargs: Any) -> Any:
        return ours(of_keras, *args, **kwargs)

    method.is_ours = True  # type: ignore[attr-defined]
    setattr(kind, name, method)


def optimizer_classes() -> tuple[type, ...]:
    """Of which all optimizers of tf-keras are."""
    optimizers = _tf_keras().optimizers
    return optimizers.Optimizer, optimizers.legacy.Optimizer


def containers_of(model: Any) -> list[Any]:
    """What holds the losses, and the metrics, with which `model` was compiled."""
    return [c for c in (model.compiled_loss, model.compiled_metrics) if c]


def metrics_of(model: Any) -> list[Any]:
    """All metrics that `model` and its layers hold and did not compile, each once."""
    held = [metric for layer in model._flatten_layers() for metric in layer._metrics]
    return list({id(metric): metric for metric in [*model.metrics, *held]}.values())


def takes_means(metric: Any) -> bool:
    """Whether `metric` takes the mean of the values that it is given."""
    return type(metric).update_state is _tf_keras().metrics.Mean.update_state


def sums_what_steps_return(model: Any) -> bool:
    """Whether `fit` adds up the numbers that replicas return, or takes the first one.

    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/engine/training.py
    """
    method = model.distribute_reduction_method
    is_tpu = isinstance(model.distribute_strategy, tf.distribute.TPUStrategy)
    return method == "sum" or (method == "auto" and not is_tpu)

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
import itertools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distloss._keras.model_hooks import Hook
from distloss._keras.private_names import of_others as names

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
    for name, ours in (
        (names.VALID_MASK, masked),
        (names.WEIGHTED_LOSS, reduced),
        (names.SCALE_LOSS_OF_TF_KERAS, scaled),
    ):
        if not isinstance(name.found(), Hook):
            name.put(name.owners(), Hook(ours, name.found()))
    names.GET_REDUCTION.check()
    _replace_method(_tf_keras().losses.Loss, names.GET_REDUCTION.name, reduction)


def watch_updates(watched: _Function) -> None:
    """Calls `watched(of_keras, optimizer, ...)` for any update of tf-keras."""
    for kind in (
        _tf_keras().optimizers.Optimizer,
        _tf_keras().optimizers.legacy.Optimizer,
        names.SCALING.found(),
        names.SCALING_V3.found(),
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
    both = (names.COMPILED_LOSS, names.COMPILED_METRICS)
    return [container for container in (name.of(model) for name in both) if container]


def holds_losses(container: Any) -> bool:
    """Whether one of these, which is built, holds the losses."""
    if not isinstance(container, names.BUILT_LOSSES.owners()):
        return False
    names.BUILT_LOSSES.check(container)
    return True


def exchange_losses(container: Any, change: _Function) -> None:
    """Lets `container`, which is built, call `change(loss)` instead of each loss."""
    held = names.BUILT_LOSSES.of(container)
    changed = [None if loss is None else change(loss) for loss in held]
    names.BUILT_LOSSES.put(container, changed)


def metrics_of(model: Any) -> list[Any]:
    """All metrics that `model` and its layers hold and did not compile, each once."""
    layers = names.LAYERS_IN.of(model)()
    held = itertools.chain(*map(names.METRICS_OF_LAYER.of, layers))
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

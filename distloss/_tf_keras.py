"""Optimizers of tf-keras (Keras 2), which stays optional: it is never imported here."""

from __future__ import annotations

import functools
import sys
from typing import Any

from distloss._errors import ArgumentError, ArgumentTypeError
from distloss.replicas import Replicas, replicas_or_current_strategy


def is_optimizer(value: Any) -> bool:
    """Whether `value` is an optimizer of tf-keras."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(
        value, (tf_keras.optimizers.Optimizer, tf_keras.optimizers.legacy.Optimizer)
    )


class SumsFirst:
    """A tf-keras optimizer whose gradients are summed over `Replicas`.

    tf-keras aggregates before it clips and looks for overflow, in this method:
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/optimizers/optimizer.py
    """

    _distloss_replicas: Replicas | None

    def aggregate_gradients(self, grads_and_vars: Any) -> list[Any]:
        """The pairs that have a gradient, with the sums of these."""
        pairs = [pair for pair in grads_and_vars if pair[0] is not None]
        replicas = replicas_or_current_strategy(self._distloss_replicas)
        name = f"gradients_{type(self).__bases__[1].__name__}"
        sums = replicas.sum_gradients([gradient for gradient, _ in pairs], name)
        return [(s, variable) for s, (_, variable) in zip(sums, pairs, strict=True)]


def distributed_optimizer(
    optimizer: Any, replicas: Replicas | None, accumulation_steps: int
) -> Any:
    """An optimizer of the same class and state that sums over `replicas` first."""
    replicas_or_current_strategy(replicas)  # refuses what is none
    inner = getattr(optimizer, "inner_optimizer", None)
    if accumulation_steps != 1:
        raise ArgumentError(
            "Expected accumulation_steps=1 with an optimizer of tf-keras. Got "
            f"accumulation_steps={accumulation_steps}. Use a Keras 3 optimizer, or cut "
            "each batch into parts that are added up before apply_gradients."
        )
    if not hasattr(inner or optimizer, "aggregate_gradients"):
        raise ArgumentTypeError(
            "Expected an optimizer of tf_keras.optimizers that sums gradients before "
            f"it clips. Got {type(inner or optimizer).__name__}, a legacy one. Use the "
            "class of the same name in tf_keras.optimizers."
        )
    if inner is not None:  # a LossScaleOptimizer, which asks the inner one to sum
        optimizer._optimizer = distributed_optimizer(inner, replicas, 1)
        return optimizer
    keras_class: Any = type(optimizer)
    made: Any = object.__new__(_class_of(keras_class))
    vars(made).update(vars(optimizer))
    vars(made)["_distloss_replicas"] = replicas
    return made


@functools.cache
def _class_of(keras_class: Any) -> Any:
    if issubclass(keras_class, SumsFirst):
        raise ArgumentTypeError(
            f"Expected an optimizer to wrap. Got {keras_class.__name__}, distributed "
            "already: its gradients would be summed twice. Use it as it is."
        )
    return type(keras_class.__name__, (SumsFirst, keras_class), {})

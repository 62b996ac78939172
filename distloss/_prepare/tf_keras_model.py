"""`prepare` for a compiled model of tf-keras (Keras 2)."""

from __future__ import annotations

import functools
from typing import Any

from distloss._errors import ArgumentError, ContextError
from distloss._keras.compiled_model import (
    check_names_of,
    hold_losses,
    is_compiled,
    strategy_given_to,
    with_losses,
)
from distloss._keras.model_hooks import Hook
from distloss._keras.tf_keras import forget_functions, hook_compile_arguments
from distloss._prepare import tf_keras_own
from distloss._prepare.checks import not_compiled
from distloss._prepare.found import distributed
from distloss._prepare.tf_keras_losses import compute_loss, update_metrics
from distloss._prepare.tf_keras_steps import (
    test_step,
    train_step,
    train_step_in_parts,
)
from distloss._types import OnNonfinite
from distloss.losses.global_loss import to_compile
from distloss.losses.tf_keras import distributed_loss
from distloss.replicas import Replicas, current_strategy, replicas_or_current_strategy


def prepared(
    model: Any, replicas: Replicas | None, parts: int, on_nonfinite: OnNonfinite | None
) -> Any:
    """`model`, of which each batch makes one update, as `distloss.prepare` says."""
    has_own_steps = tf_keras_own.has_own_steps(model)
    # One with a step of its own may keep all its optimizers elsewhere.
    if not (is_compiled(model) and (model.optimizer or has_own_steps)):
        raise not_compiled(model)
    check_names_of(model)
    _check_replicas(replicas_or_current_strategy(replicas))
    _check_scope(model)
    if has_own_steps:
        return tf_keras_own.prepared(model, replicas, parts, on_nonfinite)
    wrap = functools.partial(distributed_loss, replicas=replicas)
    with model.distribute_strategy.scope():
        hold_losses(model, with_losses(model, functools.partial(to_compile, wrap=wrap)))
        optimizer = distributed(model.optimizer, replicas, on_nonfinite)
        if optimizer is not model.optimizer:
            model.optimizer = optimizer
    _override_methods(model, replicas_or_current_strategy(replicas), parts)
    forget_functions(model)  # which hold what was
    return model


def _check_replicas(replicas: Replicas) -> None:
    if not replicas.keras_sums_metrics:
        raise ArgumentError(
            "Expected the replicas of a tf.distribute strategy, over which tf-keras "
            f"sums metrics. Got replicas={replicas!r}. Compile the model with distloss."
            "DistributedLoss and distloss.DistributedOptimizer, both with these "
            "replicas, or prepare a model of Keras 3."
        )


def _check_scope(model: Any) -> None:
    own, current = strategy_given_to(model), current_strategy()
    if current is not None and current is not own:
        raise ContextError(
            "Expected a model that was made and compiled in the scope of the strategy "
            f"that it trains with. Got model {model.name!r}, which was made outside "
            "it. Call the function that makes and compiles it inside "
            "`with strategy.scope():`."
        )


def _override_methods(model: Any, replicas: Replicas, parts: int) -> None:
    if parts == 1:
        model.train_step = Hook(train_step, model)
    else:
        model.train_step = Hook(train_step_in_parts, model, replicas, parts)
    model.test_step = Hook(test_step, model)
    model.compute_loss = Hook(compute_loss, model, replicas)
    if model.compiled_metrics:
        update = Hook(update_metrics, model.compiled_metrics, replicas)
        model.compiled_metrics.update_state = update
    hook_compile_arguments(model, _with_compiled_losses)


def _with_compiled_losses(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What files in the format of HDF5 hold: the losses as they were compiled."""
    return {**arguments, "loss": model.loss}

"""`prepare` for a model with steps, or a loss computation, of its own."""

from __future__ import annotations

from typing import Any

import keras

from distloss._errors import ArgumentError, BackendError
from distloss._keras import versions
from distloss._prepare.checks import (
    check_compiler,
    check_keras,
    check_scope,
)
from distloss._prepare.found import (
    is_distributed,
    optimizers_in,
    places_of_optimizers,
    replaced,
)
from distloss._prepare.own_steps import weigh_own_steps
from distloss._prepare.step_hooks import hook_fit
from distloss.optimizers import DistributedOptimizer
from distloss.replicas import Replicas, replicas_or_current_strategy


def prepared(model: keras.Model, replicas: Replicas | None, parts: int) -> keras.Model:
    """`model`, of which each batch makes the updates of its own step."""
    _refuse_parts(model, parts)
    places = places_of_optimizers(model)
    optimizers = optimizers_in(places)
    _check_optimizers(model, optimizers)
    check_scope(model, optimizers)
    check_keras(model)
    _check_losses(model)
    check_compiler(model)
    _check_layers(model)
    # What may still be refused comes before anything changes.
    ours = {
        id(optimizer): optimizer
        if is_distributed(optimizer)
        else DistributedOptimizer(optimizer, replicas=replicas)
        for optimizer in optimizers
    }
    for owner, name, value in places:
        setattr(owner, name, replaced(value, lambda optimizer: ours[id(optimizer)]))
    found = replicas_or_current_strategy(replicas)
    hook_fit(model, found)
    weigh_own_steps(model, found)
    return model


def _refuse_parts(model: keras.Model, parts: int) -> None:
    if parts > 1:
        raise ArgumentError(
            "Expected microbatches=1 for a model with a step of its own, which takes "
            f"its batch whole. Got microbatches={parts} and model {model.name!r} of "
            f"{type(model).__name__}. Cut the batch in its train_step and add up "
            "gradients, each times its rows, before one update; or let Keras' "
            "train_step compute the loss."
        )


def _check_optimizers(model: keras.Model, optimizers: list[Any]) -> None:
    if not optimizers:
        raise ArgumentError(
            "Expected a model with an optimizer. Got model "
            f"{model.name!r} of {type(model).__name__} with none in the attributes of "
            "the model and of its layers, nor in lists, tuples or dicts there. Compile "
            "it, or set model.optimizer, before distloss.prepare(model)."
        )
    for optimizer in optimizers:
        settings = getattr(optimizer, "_settings", None)
        if settings is not None and settings.accumulation_steps > 1:
            raise ArgumentError(
                "Expected optimizers that update at each call, in a model with a step "
                f"of its own. Got optimizer {optimizer.name!r} with "
                f"accumulation_steps={settings.accumulation_steps}, which needs the "
                "denominator of one DistributedLoss. Leave out accumulation_steps=."
            )


def _check_losses(model: keras.Model) -> None:
    count = model.distribute_strategy.num_replicas_in_sync
    if count > 1 and not versions.TRACKERS_MULTIPLY:
        raise BackendError(
            "Expected Keras 3.8 or newer to prepare a model with a step of its own for "
            f"{count} replicas. Got keras.__version__={keras.__version__}, in which "
            "losses are divided by the number of replicas elsewhere. Install a newer "
            "one: pip install --upgrade keras."
        )


def _check_layers(model: keras.Model) -> None:
    """Raises ArgumentError where a gradient is not that of a replica's own loss."""
    count = model.distribute_strategy.num_replicas_in_sync
    if count == 1:
        return
    for layer in model._flatten_layers():
        if getattr(layer, "synchronized", False):
            raise ArgumentError(
                "Expected layers that compute without other replicas, in a model with "
                "a step of its own, whose gradients are weighed by rows. Got layer "
                f"{layer.name!r} with synchronized=True on {count} replicas, through "
                "which gradients of their losses come. Use synchronized=False, or "
                "Keras' train_step."
            )

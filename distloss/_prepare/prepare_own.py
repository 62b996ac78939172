"""`prepare` for a model with steps, or a loss computation, of its own."""

from __future__ import annotations

from typing import Any

import keras

from distloss._errors import ArgumentError, BackendError
from distloss._keras import versions
from distloss._prepare import own_checks
from distloss._prepare.checks import (
    check_compiler,
    check_keras,
    check_scope,
)
from distloss._prepare.found import (
    distribute_in_place,
    optimizers_in,
    places_of_optimizers,
)
from distloss._prepare.own_steps import weigh_own_steps
from distloss._prepare.step_hooks import hook_fit
from distloss._types import OnNonfinite
from distloss.replicas import Replicas, replicas_or_current_strategy


def prepared(
    model: keras.Model,
    replicas: Replicas | None,
    parts: int,
    on_nonfinite: OnNonfinite | None,
) -> keras.Model:
    """`model`, of which each batch makes the updates of its own step."""
    own_checks.refuse_parts(model, parts)
    places = places_of_optimizers(model)
    optimizers = optimizers_in(places)
    own_checks.check_found(model, optimizers)
    _check_steps(optimizers)
    check_scope(model, optimizers)
    check_keras(model)
    _check_losses(model)
    check_compiler(model)
    own_checks.check_own_layers(model)
    # What may still be refused comes before anything changes.
    distribute_in_place(places, replicas, on_nonfinite)
    found = replicas_or_current_strategy(replicas)
    hook_fit(model, found)
    weigh_own_steps(model, found)
    return model


def _check_steps(optimizers: list[Any]) -> None:
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

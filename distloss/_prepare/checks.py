"""What `prepare` refuses, before it changes anything."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss._errors import ArgumentError, BackendError, ContextError
from distloss._keras import versions
from distloss._keras.compiled_model import layers_of, strategy_given_to
from distloss._keras.optimizer_state import strategy_of
from distloss.replicas import Replicas, current_strategy


def not_compiled(model: Any) -> ArgumentError:
    """The error for a model without what `prepare` wraps."""
    return ArgumentError(
        "Expected a compiled model, with a loss and an optimizer to wrap. Got "
        f"model {model.name!r}, which is not. Call model.compile(optimizer, loss) "
        "before distloss.prepare(model)."
    )


def refuse_compiled_again(model: Any, *, is_prepared: bool) -> None:
    """Raises ContextError where `model` trains with losses or optimizers of others."""
    if not is_prepared:
        raise ContextError(
            "Expected a prepared model, whose losses and optimizer are distributed. "
            f"Got model {model.name!r} with other ones: it was compiled again. Call "
            "distloss.prepare(model) after each model.compile(...)."
        )


def check_layers(model: keras.Model, parts: int) -> None:
    """Raises ArgumentError where a layer sums over replicas in the midst of a part.

    Each replica goes through its parts in a loop of its own, where TensorFlow allows no
    collective.
    """
    count = model.distribute_strategy.num_replicas_in_sync
    if parts == 1 or count == 1:
        return
    for layer in layers_of(model):
        if getattr(layer, "synchronized", False):
            raise ArgumentError(
                "Expected layers that compute without other replicas, to cut batches "
                f"into microbatches={parts}. Got layer {layer.name!r} with "
                f"synchronized=True on {count} replicas. Use microbatches=1, or "
                "synchronized=False, whose statistics are those of a part."
            )


def check_compiler(model: keras.Model) -> None:
    """Raises ArgumentError where XLA would have to compile a step of replicas."""
    strategy = model.distribute_strategy
    count = strategy.num_replicas_in_sync
    is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    if model.jit_compile and count > 1 and not is_tpu:
        raise ArgumentError(
            "Expected a model that is not compiled by XLA, which cannot compile a step "
            f"of several devices. Got model {model.name!r} with jit_compile=True on "
            f"{count} replicas. Leave out jit_compile= in model.compile(...), or train "
            "on one device or on TPUs."
        )


def check_keras(model: keras.Model) -> None:
    """Raises BackendError where this Keras builds a model on each replica."""
    count = model.distribute_strategy.num_replicas_in_sync
    if count > 1 and not versions.OPTIMIZERS_SUM:
        raise BackendError(
            f"Expected Keras 3.5 or newer to prepare a model for {count} replicas. Got "
            f"keras.__version__={keras.__version__}, whose fit builds a model on each "
            "of them. Install a newer one (pip install --upgrade keras), or write the "
            "loop and use distloss.DistributedLoss and distloss.DistributedOptimizer."
        )


def check_dealt_once(replicas: Replicas) -> None:
    """Raises ContextError where Keras deals the batches of `fit` to others than these.

    To as many processes of Horovod it may: each then has rows of its own, as it should.
    A strategy deals what it is given, and would leave out what Keras gave to others.
    """
    shares = versions.shares_dealt_by_keras()
    is_of_processes = not replicas.keras_sums_metrics and replicas.count() == shares
    if shares > 1 and not is_of_processes:
        raise ContextError(
            "Expected batches that Keras does not deal to processes, since replicas="
            f"{replicas!r} share them. Got keras.distribution.distribution() with "
            f"auto_shard_dataset=True, which deals them into {shares} shares before. "
            "Set its auto_shard_dataset = False."
        )


def check_scope(model: keras.Model, optimizers: list[Any]) -> None:
    """Raises ContextError where one of them is of another strategy's scope."""
    own, current = strategy_given_to(model), current_strategy()
    if current is not None and current is not own:
        raise _other_scope(f"Got model {model.name!r}, which was made outside it.")
    for outer in optimizers:
        optimizer = getattr(outer, "inner_optimizer", outer)
        made_in = strategy_of(optimizer)
        if made_in is not model.distribute_strategy:
            raise _other_scope(
                f"Got model {model.name!r}, whose optimizer {optimizer.name!r} was "
                f"made in another: {made_in}."
            )


def _other_scope(problem: str) -> ContextError:
    return ContextError(
        "Expected a model that was made and compiled in the scope of the strategy "
        f"that it trains with. {problem} Call the function that makes and compiles it "
        "inside `with strategy.scope():`."
    )

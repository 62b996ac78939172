"""Puts the steps of a prepared model in the place of those of Keras."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._formula.step_context import StepContext, current_step
from distloss._keras import versions
from distloss._keras.compiled_model import (
    compiled_with,
    first_build_of_keras,
    hook_first_build,
    hook_loss,
    loss_as_keras,
    loss_container,
    strategy_given_to,
)
from distloss._keras.layer_hooks import hook_sum_of_added
from distloss._keras.model_hooks import Hook, report_global_metrics
from distloss._prepare.added import weighed
from distloss._prepare.checks import check_dealt_once
from distloss._prepare.own_steps import take_step
from distloss._prepare.steps import predict_step, test_step, train_step
from distloss._prepare.steps_in_parts import train_step_in_parts
from distloss.optimizers import undistributed
from distloss.replicas import Replicas


def override_methods(model: keras.Model, replicas: Replicas, parts: int) -> None:
    """Lets `model` take its steps by one update of the whole batch."""
    if parts == 1:
        model.train_step = Hook(train_step, model, replicas)
    else:
        model.train_step = Hook(train_step_in_parts, model, replicas, parts)
    model.test_step = Hook(test_step, model, replicas)
    if versions.TRACKERS_MULTIPLY:
        hook_loss(model, Hook(_compute_loss, model))
        hook_sum_of_added(model, Hook(weighed, model, replicas))
    else:
        total = Hook(_total_loss, model, replicas)
        model.compute_loss = total
        hook_loss(model, total)
    hook_fit(model, replicas)
    if not replicas.keras_sums_metrics:
        report_global_metrics(model, replicas)


def hook_fit(model: keras.Model, replicas: Replicas) -> None:
    """What `fit` needs around steps: a first batch that splits unevenly, its files."""
    model.predict_step = Hook(predict_step, model, replicas)
    model.get_compile_config = Hook(_compile_config, model)
    model.train_function = model.test_function = None  # they hold the steps of before
    hook_first_build(model, Hook(_maybe_symbolic_build, model, replicas))


def _compile_config(model: keras.Model) -> dict[str, Any]:
    """What files hold: the optimizer as it was compiled, with what was set since."""
    config: dict[str, Any] = type(model).get_compile_config(model)
    given = compiled_with(model, "optimizer") if config else None
    # Under mixed_float16, `compile` has put a LossScaleOptimizer around it.
    inner = getattr(model.optimizer, "inner_optimizer", None)
    for now in map(undistributed, (model.optimizer, inner)):
        if isinstance(given, keras.optimizers.Optimizer) and type(now) is type(given):
            config["optimizer"] = keras.saving.serialize_keras_object(now)
            break
    return config


def _maybe_symbolic_build(
    model: keras.Model, replicas: Replicas, iterator: Any = None, data_batch: Any = None
) -> None:
    # Keras averages the first batch over replicas, which needs parts of one shape, and
    # which takes it from a generator for good. It looks at shapes and dtypes only, so
    # the part of one replica will do, or what the generator says of its batches.
    # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/trainer.py
    if iterator is not None:
        check_dealt_once(replicas)
        versions.let_batches_be_copies(iterator)
    strategy = strategy_given_to(model)
    if iterator is not None and strategy is not None:
        data_batch = versions.spec_of_batches(iterator)
        if data_batch is None:
            data = _first_batch(iterator)
            local = strategy.experimental_local_results
            data_batch = tf.nest.map_structure(lambda x: local(x)[0], data)
        iterator = None
    # A step of one's own need not call the model, nor know targets as Keras does: what
    # it uses is then built where it is used, and what is wrong with it is said there.
    can_wait = isinstance(model.train_step, Hook) and model.train_step.func is take_step
    with contextlib.suppress(Exception) if can_wait else contextlib.nullcontext():
        first_build_of_keras(model, iterator, data_batch)
    if strategy is not None:
        with strategy.scope():
            versions.sum_on_read([v for m in model.metrics for v in m.variables])


def _first_batch(iterator: Any) -> Any:
    try:
        return next(versions.batches_of(iterator))
    except StopIteration as error:
        raise ArgumentError(
            "Expected data of at least one batch. Got none: the data set is empty, or "
            "an iterator that was used before. Pass rows, or let the data set repeat()."
        ) from error


def _compute_loss(model: keras.Model, *args: Any, **kwargs: Any) -> tf.Tensor:
    step = current_step()
    if step is None:
        return loss_as_keras(model, *args, **kwargs)
    step.in_loss = True
    try:
        return loss_as_keras(model, *args, **kwargs)
    finally:
        step.in_loss = False


def _total_loss(  # noqa: PLR0913  # arguments of Keras
    model: keras.Model,
    replicas: Replicas,
    x: Any = None,
    y: Any = None,
    y_pred: Any = None,
    sample_weight: Any = None,
    **_training: bool,
) -> tf.Tensor:
    """What `_compute_loss` gives, where Keras has no hook for what layers add."""
    step = current_step() or StepContext(0)
    step.in_loss = True
    try:
        losses = [weighed(model, replicas, added) for added in model.losses]
        container = loss_container(model)
        if container is not None:
            losses.append(container(y, y_pred, sample_weight))
        return tf.add_n(losses)
    finally:
        step.in_loss = False

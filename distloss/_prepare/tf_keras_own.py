"""Models of tf-keras (Keras 2) that take steps which somebody else wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distloss._errors import ContextError
from distloss._formula import empty
from distloss._formula.row_weights import RowWeightedContext, row_weighted_context
from distloss._formula.step_context import step_scope
from distloss._keras import tf_keras_own_steps as upstream
from distloss._keras.compiled_model import layers_of
from distloss._keras.model_hooks import Hook
from distloss._keras.tf_keras import forget_functions, model_class, strategy_of
from distloss._prepare import found, own_checks
from distloss._prepare.average_loss import watch_shares
from distloss._prepare.checks import check_compiler
from distloss._prepare.own_steps import (
    as_reported,
    counted_by_rows,
    mean_on_each,
    scaled,
)
from distloss._prepare.tf_keras_losses import restored_without_rows, updated_by_rows
from distloss._prepare.tf_keras_own_losses import (
    masked,
    reduced,
    reduction_of,
    report_means,
)
from distloss._prepare.tf_keras_steps import statistics_of
from distloss._types import OnNonfinite
from distloss.replicas import Replicas, replicas_or_current_strategy

_METHODS = ("train_step", "test_step", "compute_loss")


def has_own_steps(model: Any) -> bool:
    """Whether `model` has a step or a loss computation that is not that of tf-keras."""
    base = model_class()
    return any(own_checks.is_own(model, name, base, take_step) for name in _METHODS)


def prepared(
    model: Any, replicas: Replicas | None, parts: int, on_nonfinite: OnNonfinite | None
) -> Any:
    """`model`, of which each batch makes the updates of its own step."""
    own_checks.refuse_parts(model, parts)
    classes = upstream.optimizer_classes()
    places = found.places_of_optimizers(model, classes)
    optimizers = found.optimizers_in(places, classes)
    own_checks.check_found(model, optimizers)
    _check_scope(model, optimizers)
    check_compiler(model)
    own_checks.check_own_layers(model)
    # What may still be refused comes before anything changes.
    with model.distribute_strategy.scope():
        found.distribute_in_place(places, replicas, on_nonfinite, classes)
    _weigh_own_steps(model, replicas_or_current_strategy(replicas))
    forget_functions(model)  # which hold what was
    return model


def _check_scope(model: Any, optimizers: list[Any]) -> None:
    own = model.distribute_strategy
    for outer in optimizers:
        optimizer = getattr(outer, "inner_optimizer", outer)
        made_in = strategy_of(optimizer)
        if made_in is not None and made_in is not own:
            raise ContextError(
                "Expected a model that was made and compiled in the scope of the "
                f"strategy that it trains with. Got model {model.name!r}, whose "
                f"{type(optimizer).__name__} was made in another: {made_in}. Call "
                "the function that makes and compiles it inside "
                "`with strategy.scope():`."
            )


def _weigh_own_steps(model: Any, replicas: Replicas) -> None:
    upstream.replace_reductions(masked, reduced, scaled, reduction_of)
    upstream.watch_updates(_update)
    upstream.watch_metrics(_hook_new_metric)
    watch_shares()
    for name in ("train_step", "test_step"):
        given = getattr(model, name)
        own = given.args[-1] if isinstance(given, Hook) else given
        setattr(model, name, Hook(take_step, model, replicas, own))


def _update(of_keras: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
    """An update by an optimizer, which in such a step must be ours."""
    own_checks.refuse_other_optimizers(optimizer, type(optimizer).__name__)
    return of_keras(optimizer, *args, **kwargs)


def take_step(
    model: Any, replicas: Replicas, own: Callable[[Any], Any], data: Any
) -> Any:
    """What `own` makes of this replica's part of a batch, weighed by its rows."""
    if replicas.count() == 1:
        return own(data)
    step = RowWeightedContext(own_checks.checked_rows(data), replicas)
    padded = empty.with_a_row(data)
    step.inputs = tf.nest.flatten(padded)
    for container in upstream.containers_of(model):
        _hook_container(container)
    for metric in upstream.metrics_of(model):
        _hook_metric(metric)
    with step_scope(step):
        statistics = [v for x in layers_of(model) for v in statistics_of(x)]
        kept = [(v, tf.identity(v)) for v in statistics]
        logs = own(padded)
        if step.may_be_empty:
            restored_without_rows(step, kept)
        mean = functools.partial(_mean_as_tf_keras_reads, model)
        return as_reported(step, logs, mean)


def _hook_container(container: Any) -> None:
    """Lets what was compiled be hooked once it is built, which may be in a step."""
    if container.built:
        _hook_built(container)
    elif not isinstance(container.build, Hook):
        container.build = Hook(_build, container)


def _build(container: Any, *predictions: Any) -> None:
    type(container).build(container, *predictions)
    _hook_built(container)


def _hook_built(container: Any) -> None:
    if upstream.holds_losses(container):
        report_means(container)
    for metric in container.metrics:  # none before
        _hook_metric(metric)


def _hook_metric(metric: Any) -> None:
    """Lets `metric` weigh what a step tells it, and note what it tells the step."""
    if not isinstance(metric.update_state, Hook):
        metric.update_state = Hook(_update_state, metric, metric.update_state)
        metric.result = Hook(_result, metric, metric.result)


def _hook_new_metric(metric: Any) -> None:
    """A metric that a step makes is hooked for all replicas, or they would not meet."""
    if row_weighted_context() is not None:
        _hook_metric(metric)


def _update_state(metric: Any, update: Any, *args: Any, **kwargs: Any) -> Any:
    step = row_weighted_context()
    if step is None:
        return update(*args, **kwargs)
    if upstream.takes_means(metric):
        update = functools.partial(_update_mean, step, update)
    given = functools.partial(update, *args, **kwargs)
    return updated_by_rows(step, [metric], given, step.part)


def _update_mean(
    step: RowWeightedContext, update: Any, values: Any, sample_weight: Any = None
) -> Any:
    values, sample_weight = counted_by_rows(step, values, sample_weight)
    return update(values, sample_weight=sample_weight)


def _result(metric: Any, read: Callable[..., Any], *args: Any) -> Any:
    """What `metric` says of all replicas, noted as such."""
    result = read(*args)
    step = row_weighted_context()
    if step is not None:
        step.note_result(result, metric)
    return result


def _mean_as_tf_keras_reads(
    model: Any, step: RowWeightedContext, value: tf.Tensor
) -> tf.Tensor:
    """The mean over rows of all replicas, where tf-keras has read the step."""
    if upstream.sums_what_steps_return(model):
        return step.weigh(value)
    return mean_on_each(step, value)

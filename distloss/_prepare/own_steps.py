"""Models that take steps which somebody else wrote, as `_formula.row_weights` says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import ContextError
from distloss._formula import empty, reduce
from distloss._formula.row_weights import RowWeightedContext, row_weighted_context
from distloss._formula.step_context import note_element_losses, step_scope
from distloss._keras import own_steps, versions
from distloss._keras.layer_hooks import hook_sum_of_added, sum_of_added_as_keras
from distloss._keras.model_hooks import Hook, report_global_metrics
from distloss._prepare.added import is_of_rows
from distloss._prepare.average_loss import watch_shares
from distloss._prepare.chosen_rows import counts_like_rows
from distloss._prepare.layer_hooks import hook_layers, keep_without_rows
from distloss._prepare.own_checks import (
    checked_rows,
    is_own,
    refuse_other_optimizers,
)
from distloss._prepare.scalar_metrics import weigh_scalar_metrics
from distloss._prepare.steps import as_keras_reads
from distloss.replicas import Replicas, current_strategy

_METHODS = ("train_step", "test_step", "compute_loss", "_compute_loss")


def has_own_steps(model: keras.Model) -> bool:
    """Whether `model` has a step or a loss computation that is not that of Keras."""
    return any(is_own(model, name, keras.Model, take_step) for name in _METHODS)


def weigh_own_steps(model: keras.Model, replicas: Replicas) -> None:
    """Lets the steps that `model` has of its own weigh by rows."""
    watch_keras()
    told: dict[str, Any] = {}
    for name in ("train_step", "test_step"):
        given = getattr(model, name)
        own = given.args[-1] if isinstance(given, Hook) else given
        # Replicas meet in the function that Keras makes of a step, and in none within.
        own = getattr(own, "python_function", own)
        setattr(model, name, Hook(take_step, model, replicas, told, own))
    if versions.TRACKERS_MULTIPLY:
        hook_sum_of_added(model, Hook(_sum_of_added, model))
    with model.distribute_strategy.scope():
        if not keras_averages(replicas):
            report_global_metrics(model, replicas, told)


def _sum_of_added(model: keras.Model, added: tf.Tensor) -> tf.Tensor:
    """What Keras makes of an added loss, which is a sum over rows if it has any."""
    of_keras, step = sum_of_added_as_keras(model, added), row_weighted_context()
    if step is None or not is_of_rows(added, step):
        return of_keras
    return step.mean_of(of_keras, None, "added")


def watch_keras() -> None:
    """Lets Keras and TensorFlow know of steps weighed by rows."""
    own_steps.replace_reductions(_reduced, scaled)
    own_steps.watch_updates(_check_optimizer)
    own_steps.watch_means(_check_mean)
    watch_shares()


def take_step(
    model: keras.Model,
    replicas: Replicas,
    told: dict[str, Any],
    own: Callable[[Any], Any],
    data: Any,
) -> Any:
    """What `own` makes of this replica's part of a batch, weighed by its rows.

    Notes in `told` which of what it returns are results of metrics.
    """
    if replicas.count() == 1:
        return as_keras_reads(own(data), model)
    step = RowWeightedContext(checked_rows(data), replicas)
    padded = empty.with_a_row(data)
    step.inputs = keras.tree.flatten(padded)
    keep_apart([model], replicas)
    with step_scope(step):
        logs = own(padded)
        told.update(_told_by_metrics(step, logs))
        logs = as_reported(step, logs, _mean_as_keras_reads)
    return as_keras_reads(logs, model)


def keep_apart(held: list[Any], replicas: Replicas) -> None:
    """Lets layers and metrics keep apart what the rows of each replica do to them."""
    for layer in held:
        if isinstance(layer, keras.Layer):
            hook_layers(layer)
    for metric in own_steps.metrics_in(held):
        weigh_scalar_metrics([metric], replicas)
        if own_steps.takes_means(metric) and not isinstance(metric.update_state, Hook):
            metric.update_state = Hook(_update_mean, metric)
        if not isinstance(metric.result, Hook):
            metric.result = Hook(_result, metric)
        keep_without_rows(metric.variables)


def _check_optimizer(optimizer: Any) -> None:
    refuse_other_optimizers(optimizer, repr(optimizer.name))


def _check_mean(metric: Any, values: Any, sample_weight: Any) -> None:
    if row_weighted_context() is None or sample_weight is not None:
        return
    if tf.convert_to_tensor(values).shape.rank == 0:
        raise ContextError(
            "Expected metrics that belong to the model, or that were given to "
            "distloss.row_weighted, to weigh numbers of a step by rows. Got "
            f"{metric.name!r}. Keep it in an attribute of the model, or pass it: "
            "distloss.row_weighted(step, model, metric)."
        )


def scaled(of_keras: Any, value: Any) -> Any:
    """A loss, which no number of replicas scales where it is weighed by rows."""
    return of_keras(value) if row_weighted_context() is None else value


def _reduced(  # noqa: PLR0913  # arguments of Keras
    of_keras: Any,
    values: Any,
    sample_weight: Any = None,
    mask: Any = None,
    reduction: Any = "sum_over_batch_size",
    dtype: Any = None,
) -> Any:
    """What a Keras loss makes of its element losses, in a step weighed by rows."""
    step = row_weighted_context()
    given = functools.partial(of_keras, values, sample_weight, mask, reduction, dtype)
    if step is None or reduction in (None, "none") or not values.shape.rank:
        return given()
    is_plain = sample_weight is None and mask is None and reduction != "sum"
    if is_plain and counts_like_rows(values, step):
        note_element_losses(values)
        return given()
    local = reduce.weighted(values, sample_weight, mask)
    note_element_losses(local.elements)
    weight = reduce.weight_of(local, reduction, step.replicas)
    sharing = reduce.sharing_of(local, reduction)
    mean = step.mean_of(reduce.total(local), weight, f"loss_{reduction}", sharing)
    return tf.cast(mean, dtype or values.dtype)


def _update_mean(metric: Any, values: Any, sample_weight: Any = None) -> Any:
    step = row_weighted_context()
    if step is not None:
        values, sample_weight = counted_by_rows(step, values, sample_weight)
    return type(metric).update_state(metric, values, sample_weight=sample_weight)


def counted_by_rows(
    step: RowWeightedContext, values: Any, sample_weight: Any
) -> tuple[Any, Any]:
    """What a metric takes the mean of, and by which weights.

    A number of the step counts by its rows, and those of all replicas once.
    """
    if sample_weight is not None or isinstance(values, tf.RaggedTensor):
        return values, sample_weight
    values = tf.convert_to_tensor(values)
    if values.shape.rank != 0:
        return values, None
    return step.of_rows(values), step.part()


def _result(metric: Any) -> Any:
    """What `metric` says of all replicas, also to the step on one of them."""
    step = row_weighted_context()
    read = functools.partial(type(metric).result, metric)
    if step is None:
        return read()
    result = step.replicas.read_together(read)
    step.note_result(result, metric)
    return result


def _told_by_metrics(step: RowWeightedContext, logs: Any) -> dict[str, Any]:
    metrics = {id(result): metric for result, metric in step.results}
    named = logs.items() if isinstance(logs, dict) else ()
    return {name: metrics[id(x)] for name, x in named if id(x) in metrics}


def as_reported(
    step: RowWeightedContext,
    logs: Any,
    mean: Callable[[RowWeightedContext, tf.Tensor], tf.Tensor],
) -> Any:
    """What a step returns: `mean` of each number that no metric has told it."""
    known = {id(result) for result, _ in step.results}

    def reported(value: Any) -> Any:
        is_number = tf.is_tensor(value) and value.shape.rank == 0
        if id(value) in known or not is_number or not value.dtype.is_floating:
            return value
        return mean(step, value)

    return tf.nest.map_structure(reported, logs)


def _mean_as_keras_reads(step: RowWeightedContext, value: tf.Tensor) -> tf.Tensor:
    """The mean over rows of all replicas, where Keras has taken that of replicas."""
    if not keras_averages(step.replicas):
        return mean_on_each(step, value)
    part = step.weigh(value)
    return part * step.replicas.count_as(part.dtype)


def mean_on_each(step: RowWeightedContext, value: tf.Tensor) -> tf.Tensor:
    """The mean over rows of all replicas, on each of them, by a collective."""
    part = tf.stop_gradient(step.weigh(value))
    return step.replicas.sum(part, "reported")


def keras_averages(replicas: Replicas) -> bool:
    """Whether Keras takes the mean over replicas of what steps return."""
    of_others = (tf.distribute.TPUStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return replicas.keras_sums_metrics and not isinstance(current_strategy(), of_others)

"""The steps of a prepared model: what Keras does, with denominators of the batch."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import keras
import tensorflow as tf

from distloss._formula import empty
from distloss._formula.step_context import StepContext, step_scope
from distloss._formula.terms import Terms
from distloss._keras import versions
from distloss._keras.compiled_model import (
    averages_over_workers,
    compiled_metrics,
    loss_container,
    loss_of,
    losses_given_to,
    output_trackers,
    track_loss,
)
from distloss._keras.model_hooks import unseen_by
from distloss._prepare.checks import refuse_compiled_again
from distloss._prepare.found import is_distributed
from distloss._prepare.layer_hooks import predictions
from distloss._prepare.scalar_metrics import weigh_scalar_metrics
from distloss.losses import DistributedLoss
from distloss.optimizers import DistributedOptimizer
from distloss.replicas import Replicas


def train_step(model: keras.Model, replicas: Replicas, data: Any) -> Any:
    """Keras' `train_step`, of this replica's part of a batch."""
    check_still_prepared(model)
    if not _shares_batches(replicas):
        with step_scope(StepContext(empty.rows_of(data))):
            return as_keras_reads(type(model).train_step(model, data), model)
    update = _updated_together if can_divide_together(model) else _updated_by_itself
    step, padded = _step_of(data)
    whole, rows = update(model, replicas, step, padded)
    track_loss(model, whole, rows)
    return _measured(model, replicas, step, data)


def test_step(model: keras.Model, replicas: Replicas, data: Any) -> Any:
    """Keras' `test_step`, of this replica's part of a batch."""
    check_still_prepared(model)
    if not _shares_batches(replicas):
        step = StepContext(empty.rows_of(data))
        step.is_evaluated = True
        with step_scope(step):
            return as_keras_reads(type(model).test_step(model, data), model)
    step, padded = _step_of(data)
    step.is_evaluated = True
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(padded)
    with step_scope(step):
        step.y_pred = predictions(model, step, x, training=False)
        loss = _loss_of_rows(model, step, x, y, sample_weight, training=False)
    track_loss(model, _whole_of_rows(step, loss), step.rows)
    return _measured(model, replicas, step, data)


def predict_step(model: keras.Model, replicas: Replicas, data: Any) -> Any:
    """Keras' `predict_step`, which a replica without rows survives."""
    if replicas.count() == 1:
        return type(model).predict_step(model, data)
    rows = empty.rows_of(data)
    outputs = type(model).predict_step(model, empty.with_a_row(data))
    return empty.without_it(outputs, rows)


def _shares_batches(replicas: Replicas) -> bool:
    """Whether steps are taken here, and not by the methods of Keras."""
    return replicas.count() > 1 and versions.TRACKERS_MULTIPLY


def _step_of(data: Any) -> tuple[StepContext, Any]:
    """A step of `data`, and `data` with at least one row."""
    rows = empty.rows_of(data)
    step = StepContext(rows, may_be_empty=not (isinstance(rows, int) and rows > 0))
    padded = empty.with_a_row(data)
    step.inputs = keras.tree.flatten(padded)
    return step, padded


def _updated_together(
    model: keras.Model, replicas: Replicas, step: StepContext, data: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """One update by losses that are divided together.

    Returns:
      the loss of the whole batch, and by which rows each replica's tracker weighs it.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape, step_scope(step):
        step.terms = Terms(tape, step.rows)
        step.y_pred = predictions(model, step, x, training=True)
        in_training = functools.partial(loss_of, model, training=True)
        loss = unseen_by(
            output_trackers(model), in_training, x, y, step.y_pred, sample_weight
        )
        scaled = scaled_loss(model, replicas, loss)
    terms, unit = step.terms, scaled_loss(model, replicas, tf.ones_like(loss))
    if terms.can_fuse and not step.met_others and can_fuse(model):
        terms.divide(replicas)
        gradients, factors = gradients_of(model, tape, scaled, terms.totals)
        step.fused = terms.fused(factors, unit)
        apply(model, step, weighed(step, gradients))
        whole, step.all_rows = step.fused.loss, step.fused.rows
    else:
        sums = terms.sum(replicas)
        gradients, factors = gradients_of(model, tape, scaled, terms.totals)
        apply(model, step, of_rows(step, gradients))
        whole, step.all_rows = sums.loss(factors, unit), sums.rows
        track(model, sums.means, step.rows)
    # Equal parts: so the mean over replicas that Keras logs for a batch is its loss.
    return whole, step.all_rows / replicas.count_as(step.all_rows.dtype)


def _updated_by_itself(
    model: keras.Model, replicas: Replicas, step: StepContext, data: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """One update by losses of which each divides by itself; as above."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape, step_scope(step):
        step.y_pred = predictions(model, step, x, training=True)
        loss = _loss_of_rows(model, step, x, y, sample_weight, training=True)
        scaled = model.optimizer.scale_loss(loss)
    gradients, _ = gradients_of(model, tape, scaled, [])
    apply(model, step, of_rows(step, gradients))
    return _whole_of_rows(step, loss), step.rows


def _loss_of_rows(
    model: keras.Model, step: StepContext, *batch: Any, training: bool
) -> tf.Tensor:
    """The loss, of which trackers do not hear where there are known to be no rows."""
    x, y, sample_weight = batch
    of_model = functools.partial(loss_of, model, training=training)
    batch = x, y, step.y_pred, sample_weight
    if tf.get_static_value(step.rows) == 0:
        return unseen_by(output_trackers(model), of_model, *batch)
    return of_model(*batch)


def _whole_of_rows(step: StepContext, loss: tf.Tensor) -> tf.Tensor:
    """The loss of the whole batch, which trackers multiply by this replica's rows."""
    return step.of_rows(versions.times_replicas(loss))  # infinity times 0 is NaN


def _measured(
    model: keras.Model, replicas: Replicas, step: StepContext, data: Any
) -> Any:
    """What the metrics say after this step."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = step.y_pred
    if step.may_be_empty:
        y_pred = empty.without_it(y_pred, empty.rows_of(data))
    weigh_scalar_metrics(compiled_metrics(model), replicas)
    with step_scope(step):
        results = model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    if type(model).compute_metrics is keras.Model.compute_metrics:
        results = replicas.read_together(model.get_metrics_result)
    return as_keras_reads(results, model)


def can_divide_together(model: keras.Model) -> bool:
    """Whether the losses of a step can be divided together, and some of them count."""
    losses = losses_given_to(model)
    return (
        versions.TRACKERS_MULTIPLY
        # unlike a LossScaleOptimizer around one, until that is built
        and isinstance(model.optimizer, DistributedOptimizer)
        and any(loss.global_batch_size is None for loss in losses)
        and all(model.optimizer.sums_each_step_over(loss.replicas) for loss in losses)
    )


def can_fuse(model: keras.Model) -> bool:
    """Whether a denominator may travel with the gradients of `model`."""
    return model.optimizer.can_fuse_denominator and bool(model.trainable_weights)


def scaled_loss(model: keras.Model, replicas: Replicas, loss: tf.Tensor) -> tf.Tensor:
    """`loss` as its gradients are taken."""
    return model.optimizer.scale_loss(replicas.loss_to_differentiate(loss))


def gradients_of(
    model: keras.Model, tape: tf.GradientTape, loss: tf.Tensor, others: list[Any]
) -> tuple[list[Any], list[Any]]:
    """Gradients of `loss` with respect to the weights, and to `others`."""
    weights = model.trainable_weights
    gradients: list[Any] = tape.gradient(loss, [*weights, *others])
    for gradient, weight in zip(gradients, weights, strict=False):
        # Dense of rows of tokens forgets a part of the shape
        if isinstance(gradient, tf.Tensor):
            gradient.set_shape(weight.shape)
    return gradients[: len(weights)], gradients[len(weights) :]


def weighed(step: StepContext, gradients: list[Any]) -> list[Any]:
    """`gradients` of this replica, to be summed with `step.fused`; zeros without rows.

    Between processes the weight of each makes them zeros: `of_rows` decides for all of
    them at once, and the first would wait for the last before it is sent. In one
    process all are sent together, unless somebody asks for buckets.
    """
    found = [None if g is None else step.fused.weighed(g) for g in gradients]
    return found if step.fused.factor is not None else of_rows(step, found)


def of_rows(step: StepContext, gradients: list[Any]) -> list[Any]:
    """`gradients`, and zeros on a replica without rows, whatever they are."""
    if not step.may_be_empty:
        return gradients
    return empty.zeros_without_rows(gradients, step.rows)


def apply(model: keras.Model, step: StepContext, gradients: list[Any]) -> None:
    """One update of the weights."""
    if model.trainable_weights:
        pairs = zip(gradients, model.trainable_weights, strict=True)
        with step_scope(step):
            model.optimizer.apply_gradients(list(pairs))


def track(model: keras.Model, losses: list[tf.Tensor], rows: tf.Tensor | int) -> None:
    """Reports the losses of single outputs, as CompileLoss does.

    Which weighs them by rows where it knows those when the step is traced, or eagerly.
    """
    static_rows = tf.get_static_value(rows)
    weights = versions.tracked_weights(loss_container(model))
    factors = itertools.chain(weights, itertools.repeat(1.0))
    for tracker, value, factor in zip(
        output_trackers(model), losses, factors, strict=False
    ):
        tracker.update_state(factor * value, sample_weight=static_rows)


def as_keras_reads(results: Any, model: keras.Model) -> Any:
    """What a step reports, with an axis for Keras to average over.

    Over several workers it takes a mean over axis 0 besides that over replicas, which
    numbers do not have; elsewhere it does not.
    https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/trainer.py
    """
    if not averages_over_workers(model.distribute_strategy):
        return results
    return keras.tree.map_structure(lambda result: result[tf.newaxis], results)


def check_still_prepared(model: keras.Model) -> None:
    """Raises ContextError where `model` was compiled again since it was prepared."""
    are_ours = [isinstance(loss, DistributedLoss) for loss in losses_given_to(model)]
    is_prepared = all(are_ours) and is_distributed(model.optimizer)
    refuse_compiled_again(model, is_prepared=is_prepared)

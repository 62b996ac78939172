"""A step of a prepared model that takes its batch in parts, one after the other."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import keras
import tensorflow as tf

from distloss._formula import empty, reduce, sparse
from distloss._formula.step_context import (
    CountFirst,
    MicrobatchContext,
    StepContext,
    step_scope,
)
from distloss._formula.terms import FusedWithGradients, Terms
from distloss._keras.compiled_model import (
    build_alone,
    compiled_metrics,
    layers_of,
    loss_of,
    losses_given_to,
    output_trackers,
    track_loss,
)
from distloss._keras.model_hooks import unseen_by
from distloss._prepare import microbatches
from distloss._prepare.layer_hooks import predictions
from distloss._prepare.microbatches import Parts
from distloss._prepare.scalar_metrics import weigh_scalar_metrics
from distloss._prepare.steps import (
    apply,
    as_keras_reads,
    can_divide_together,
    can_fuse,
    check_still_prepared,
    gradients_of,
    of_rows,
    scaled_loss,
    track,
    weighed,
)
from distloss.optimizers.arguments import refuse_overwritten
from distloss.replicas import Replicas


def train_step_in_parts(
    model: keras.Model, replicas: Replicas, most: int, data: Any
) -> Any:
    """What Keras' `train_step` does, in at most `most` parts."""
    check_still_prepared(model)
    build_alone(model, data)
    refuse_overwritten(model.trainable_weights)
    parts = microbatches.cut(keras.utils.unpack_x_y_sample_weight(data), most)
    # An eager forward pass has its effects before it is known which losses there are.
    can = can_divide_together(model) and can_fuse(model)
    if can and not tf.executing_eagerly():
        with contextlib.suppress(CountFirst):
            return as_keras_reads(_fused_parts(model, replicas, parts), model)
    return as_keras_reads(_counted_parts(model, replicas, parts), model)


def _fused_parts(model: keras.Model, replicas: Replicas, parts: Parts) -> Any:
    """A step in parts whose denominator is summed with the gradients."""
    of_part = functools.partial(_divided_gradients, model, replicas, parts.most)
    unknown = tf.zeros(())
    (gradients, vector), divisor = microbatches.sum_and_keep(parts, of_part, unknown)
    step = StepContext(parts.rows)
    step.fused = FusedWithGradients(vector, divisor, losses_given_to(model)[0].note)
    _apply_sums(model, step, weighed(step, gradients))
    whole, rows = step.fused.loss, step.fused.rows
    weight = rows / replicas.count_as(rows.dtype)  # as for a whole batch
    track_loss(model, whole, weight)
    return replicas.read_together(model.get_metrics_result)


def _divided_gradients(
    model: keras.Model, replicas: Replicas, most: int, data: Any, divisor: tf.Tensor
) -> tuple[tuple[list[Any], tf.Tensor], tf.Tensor]:
    """Gradients of this part's sum, divided; and what is to be summed with them.

    It is one of at most `most` parts on each replica, of which the first sets the
    divisor of all, by its own weight: so the sum is multiplied once, and not each part.
    With float16 each has its own, for its numbers end at 65,504.

    Returns:
      the gradients and the vector; and the divisor, float32 scalar.
    """
    x, y, sample_weight = data
    step = StepContext(empty.rows_of(data))
    step.is_uncounted_part = True
    step.inputs = keras.tree.flatten(data)
    with tf.GradientTape() as tape, step_scope(step):
        terms = step.terms = Terms(tape, step.rows)
        y_pred = predictions(model, step, x, training=True)
        loss = loss_of(model, x, y, y_pred, sample_weight, training=True)
        scaled = scaled_loss(model, replicas, loss)
    if step.met_others or not terms.can_fuse:
        raise CountFirst
    own = terms.own_divisor(replicas.count_as(tf.float32) * most)
    if _computes_in_float16(model):
        terms.divide_by(own, own)
        divisor = tf.ones_like(divisor)
    else:
        divisor = tf.where(divisor == 0, tf.cast(own, divisor.dtype), divisor)
        terms.divide_by(divisor, None)
    gradients, factors = gradients_of(model, tape, scaled, terms.totals)
    unit = scaled_loss(model, replicas, tf.ones_like(loss))
    step.fused = terms.fused(factors, unit)
    _update_metrics(model, replicas, step, data, y_pred)
    return (weighed(step, gradients), step.fused.vector), divisor


def _computes_in_float16(model: keras.Model) -> bool:
    dtypes = (getattr(layer, "compute_dtype", None) for layer in layers_of(model))
    return "float16" in dtypes


def _counted_parts(model: keras.Model, replicas: Replicas, parts: Parts) -> Any:
    """A step in parts whose denominators are counted first."""
    forward = functools.partial(_loss_of_part, model, training=False)
    weights = unseen_by(model.metrics, microbatches.counted, parts, forward)
    counts = tf.concat([weights, [tf.cast(parts.rows, weights.dtype)]], 0)
    *denominators, all_rows = tf.unstack(replicas.sum(counts, "denominators"))
    of_part = functools.partial(
        _gradients_of_share,
        model,
        replicas,
        denominators,
        tf.cast(all_rows, tf.float32),
    )
    gradients, shares = unseen_by(
        output_trackers(model), microbatches.sum_over, parts, of_part
    )
    loss, *losses = tf.unstack(replicas.sum(shares, "losses"))
    weight = all_rows / replicas.count_as(all_rows.dtype)
    track_loss(model, loss, weight)
    track(model, losses, parts.rows)
    _apply_sums(model, StepContext(parts.rows), gradients)
    return replicas.read_together(model.get_metrics_result)


def _gradients_of_share(
    model: keras.Model,
    replicas: Replicas,
    denominators: list[tf.Tensor],
    all_rows: tf.Tensor,
    data: Any,
) -> tuple[list[Any], tf.Tensor]:
    """Gradients of this part's share; the share itself, then that of each loss."""
    rows = empty.rows_of(data)
    part = MicrobatchContext(
        rows, all_rows, denominators, may_be_empty=tf.executing_eagerly()
    )
    with tf.GradientTape() as tape:
        loss = _loss_of_part(model, part, data, training=True)
        scaled = scaled_loss(model, replicas, loss)
    y_pred = empty.without_it(part.y_pred, rows) if part.may_be_empty else part.y_pred
    _update_metrics(model, replicas, part, data, y_pred)
    dtype = reduce.accumulator_dtype(loss, *part.shares)
    shares = [tf.cast(share, dtype) for share in [loss, *part.shares]]
    gradients, _ = gradients_of(model, tape, scaled, [])
    return of_rows(part, gradients), tf.stack(shares)


def _loss_of_part(
    model: keras.Model, part: MicrobatchContext, data: Any, *, training: bool
) -> tf.Tensor:
    """The loss of a part, of which only an eager one may be of no rows."""
    x, y, sample_weight = empty.with_a_row(data) if part.may_be_empty else data
    part.inputs = keras.tree.flatten((x, y, sample_weight))
    with step_scope(part):
        part.y_pred = predictions(model, part, x, training=training)
        return loss_of(model, x, y, part.y_pred, sample_weight, training=training)


def _update_metrics(
    model: keras.Model, replicas: Replicas, part: StepContext, data: Any, y_pred: Any
) -> None:
    x, y, sample_weight = data
    weigh_scalar_metrics(compiled_metrics(model), replicas)
    with step_scope(part):
        model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _apply_sums(model: keras.Model, step: StepContext, gradients: list[Any]) -> None:
    pairs = zip(gradients, model.trainable_weights, strict=True)
    apply(model, step, [sparse.shaped(g, v) for g, v in pairs])

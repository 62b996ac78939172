"""The steps of a prepared model of tf-keras (Keras 2)."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._formula import empty, sparse
from distloss._formula.step_context import (
    MicrobatchContext,
    StepContext,
    current_step,
    step_scope,
)
from distloss._keras.compiled_model import layers_of, losses_given_to
from distloss._keras.model_hooks import unseen_by
from distloss._keras.tf_keras import (
    hook_moments,
    moments_of_tf_keras,
    own_statistics_of,
)
from distloss._prepare import microbatches
from distloss._prepare.checks import refuse_compiled_again
from distloss._prepare.found import is_distributed
from distloss._prepare.tf_keras_losses import WholeBatchContext
from distloss.losses.global_loss import GlobalLoss
from distloss.replicas import Replicas


def train_step(model: Any, data: Any) -> Any:
    """The step of `fit`."""
    _check_still_prepared(model)
    step = WholeBatchContext(data, trains=True)
    with step_scope(step):
        data = _data_with_a_row(model, step, data)
        return type(model).train_step(model, data)


def test_step(model: Any, data: Any) -> Any:
    """The step of `evaluate`."""
    _check_still_prepared(model)
    step = WholeBatchContext(data, trains=False)
    with step_scope(step):
        data = _data_with_a_row(model, step, data)
        return type(model).test_step(model, data)


def _data_with_a_row(model: Any, step: WholeBatchContext, data: Any) -> Any:
    """`data`, in which there is a row, of which no sum and no variable keeps anything.

    Its loss has no rows (`losses.tf_keras`), its gradients are zeros
    (`optimizers.tf_keras`), and variables are what they were.
    """
    if not _may_be_empty(model, step):
        return data
    data = empty.with_a_row(data)
    step.may_be_empty = True
    _build(model, *_unpacked(data))  # variables, of which some are to be kept
    for layer in layers_of(model):
        hook_moments(layer, _moments_of_rows)
    statistics = (v for x in layers_of(model) for v in statistics_of(x))
    metrics = (v for metric in model.metrics for v in metric.variables)
    step.kept = [(v, tf.identity(v)) for v in (*statistics, *metrics)]
    return data


def _may_be_empty(model: Any, step: StepContext) -> bool:
    # The same on all replicas, for they meet: an eager one knows no rows but its own.
    is_open = tf.executing_eagerly() or not tf.get_static_value(step.rows)
    return model.distribute_strategy.num_replicas_in_sync > 1 and is_open


def statistics_of(layer: Any) -> list[Any]:
    """What a layer's own rows move on each replica apart."""
    if getattr(layer, "synchronized", False):
        return []  # moved by those of all
    return own_statistics_of(layer)


def _moments_of_rows(layer: Any, x: Any, axes: Any, keep_dims: Any, mask: Any) -> Any:
    """What `layer` sums over replicas, of which some may have a row of zeros."""
    step = current_step()
    if isinstance(step, WholeBatchContext):
        x, mask = empty.without_it((x, mask), step.rows)
    return moments_of_tf_keras(layer, x, axes, keep_dims, mask)


def train_step_in_parts(model: Any, replicas: Replicas, most: int, data: Any) -> Any:
    """What `train_step` of tf-keras does, in parts."""
    _check_still_prepared(model)
    with _refusing_what_meets_in_a_part(model):
        return _train_in_parts(model, replicas, most, data)


@contextlib.contextmanager
def _refusing_what_meets_in_a_part(model: Any) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "merge_call" not in str(error):
            raise
        raise ArgumentError(
            "Expected layers that meet no other replicas, which may not be at the same "
            f"part of a batch. Got model {model.name!r}, of which one does: it calls "
            "add_metric, or is a BatchNormalization(synchronized=True). Compile the "
            "metric, model.compile(metrics=...), or use microbatches=1."
        ) from error


def _train_in_parts(model: Any, replicas: Replicas, most: int, data: Any) -> Any:
    parts = microbatches.cut(_unpacked(data), most)
    _build(model, *parts.data)
    forward = functools.partial(_loss_and_predictions, model, training=False)
    weights = unseen_by(model.metrics, microbatches.counted, parts, forward)
    counts = tf.concat([weights, [tf.cast(parts.rows, weights.dtype)]], 0)
    *denominators, all_rows = tf.unstack(replicas.sum(counts, "denominators"))
    of_part = functools.partial(
        _gradients_of_part, model, denominators, tf.cast(all_rows, tf.float32)
    )
    trackers = model.compiled_loss.metrics
    gradients, shares = unseen_by(trackers, microbatches.sum_over, parts, of_part)
    losses = tf.unstack(replicas.sum(shares, "losses"))
    for tracker, value in zip(trackers, losses, strict=False):
        tracker.update_state(value, sample_weight=parts.rows)
    _apply(model, gradients)
    return model.get_metrics_result()


def _unpacked(data: Any) -> Any:
    return importlib.import_module("tf_keras").utils.unpack_x_y_sample_weight(data)


def _build(model: Any, x: Any, y: Any, _sample_weight: Any) -> None:
    """Makes variables, which cannot be made within a part."""
    containers = [c for c in (model.compiled_loss, model.compiled_metrics) if c]
    if model.built and all(container.built for container in containers):
        return
    y_pred = model(x, training=False)
    model.compiled_loss.build(y_pred)
    if model.compiled_metrics:
        model.compiled_metrics.build(y_pred, y)


def _gradients_of_part(
    model: Any, denominators: list[tf.Tensor], all_rows: tf.Tensor, data: Any
) -> tuple[list[Any], tf.Tensor]:
    """Gradients of this part's share; the share itself, then that of each loss."""
    part = MicrobatchContext(empty.rows_of(data), all_rows, denominators)
    scale = getattr(model.optimizer, "get_scaled_loss", tf.identity)
    with tf.GradientTape() as tape:
        loss, y_pred = _loss_and_predictions(model, part, data, training=True)
        scaled = scale(loss)
    variables = model.trainable_variables
    gradients = [
        # whose shape is partly open after a tensordot
        tf.ensure_shape(gradient, variable.shape)
        if isinstance(gradient, tf.Tensor)
        else gradient
        for gradient, variable in zip(
            tape.gradient(scaled, variables), variables, strict=True
        )
    ]
    if tf.executing_eagerly():
        gradients = empty.zeros_without_rows(gradients, part.rows)
    _x, y, sample_weight = data
    model.compiled_metrics.update_state(y, y_pred, sample_weight)
    shares = [tf.cast(share, tf.float32) for share in [loss, *part.shares]]
    return gradients, tf.stack(shares)


def _loss_and_predictions(
    model: Any, part: MicrobatchContext, data: Any, *, training: bool
) -> tuple[tf.Tensor, Any]:
    if tf.executing_eagerly():  # else a part without rows is not run
        data = empty.with_a_row(data)
    x, y, sample_weight = data
    with step_scope(part):
        y_pred = model(x, training=training)
        loss = model.compute_loss(x, y, y_pred, sample_weight)
    if tf.executing_eagerly():
        y_pred = empty.without_it(y_pred, part.rows)
    return loss, y_pred


def _apply(model: Any, gradients: list[Any]) -> None:
    optimizer, variables = model.optimizer, model.trainable_variables
    if not variables:
        return
    gradients = list(map(sparse.shaped, gradients, variables))
    if hasattr(optimizer, "get_unscaled_gradients"):
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def _check_still_prepared(model: Any) -> None:
    ours = all(isinstance(loss, GlobalLoss) for loss in losses_given_to(model))
    is_prepared = ours and is_distributed(model.optimizer)
    refuse_compiled_again(model, is_prepared=is_prepared)

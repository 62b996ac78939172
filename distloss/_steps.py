"""The steps of a prepared model: what Keras does, with denominators of the batch."""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker

from distloss import _denominators, _keras_versions, _reduce, microbatches
from distloss._denominators import Part, Step
from distloss._errors import ArgumentError, ContextError
from distloss._model_hooks import Hook, report_global_metrics, unseen_by
from distloss._terms import Carried, Gathered
from distloss.losses import DistributedLoss
from distloss.microbatches import Parts
from distloss.optimizers import DistributedOptimizer
from distloss.replicas import Replicas


def override_methods(model: keras.Model, replicas: Replicas, parts: int) -> None:
    """Lets `model` take its steps by one update of the whole batch."""
    if parts == 1:
        model.train_step = Hook(_train_step, model, replicas)
    else:
        model.train_step = Hook(_train_step_in_parts, model, replicas, parts)
    model.test_step = Hook(_test_step, model)
    if _keras_versions.TRACKERS_MULTIPLY:
        model._compute_loss = Hook(_compute_loss, model)
        model._aggregate_additional_loss = Hook(_weighed, model, replicas)
    else:
        total = Hook(_total_loss, model, replicas)
        model._compute_loss = model.compute_loss = total
    if hasattr(model, "_maybe_symbolic_build"):
        model._maybe_symbolic_build = Hook(_maybe_symbolic_build, model)
    if not replicas.keras_sums_metrics:
        report_global_metrics(model, replicas)


def _all_rows(step: Step, replicas: Replicas) -> tf.Tensor:
    if step.all_rows is None:
        step.all_rows = replicas.sum(step.rows, "rows")
    return step.all_rows


def _maybe_symbolic_build(
    model: keras.Model, iterator: Any = None, data_batch: Any = None
) -> None:
    # Keras averages the first batch over replicas, which needs parts of one shape. It
    # looks at shapes and dtypes only, so the part of one replica will do.
    # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/trainer.py
    strategy = model._distribute_strategy
    if iterator is not None and strategy is not None:
        data = next(_keras_versions.batches_of(iterator))
        local = strategy.experimental_local_results
        data_batch = tf.nest.map_structure(lambda x: local(x)[0], data)
        iterator = None
    type(model)._maybe_symbolic_build(model, iterator, data_batch)
    if strategy is not None:
        with strategy.scope():
            _keras_versions.sum_on_read([v for m in model.metrics for v in m.variables])


def _compute_loss(model: keras.Model, *args: Any, **kwargs: Any) -> tf.Tensor:
    step = _denominators.current_step()
    if step is None:
        return type(model)._compute_loss(model, *args, **kwargs)
    step.in_loss = True
    try:
        return type(model)._compute_loss(model, *args, **kwargs)
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
    step = _denominators.current_step() or Step(0)
    step.in_loss = True
    try:
        losses = [_weighed(model, replicas, added) for added in model.losses]
        if model._compile_loss is not None:
            losses.append(model._compile_loss(y, y_pred, sample_weight))
        return tf.add_n(losses)
    finally:
        step.in_loss = False


def _weighed(model: keras.Model, replicas: Replicas, added: tf.Tensor) -> tf.Tensor:
    """An added loss, a mean over local rows, as a share of that over all rows.

    Keras divides it by the number of replicas, which is right as a report, since its
    loss tracker weighs by rows.
    """
    step = _denominators.current_step()
    if step is not None and (isinstance(step, Part) or replicas.count() > 1):
        _refuse_sums_over_rows(model)
    if step is not None and step.terms is not None:
        return step.terms.take_mean(tf.reduce_sum(added), step.rows)
    if _keras_versions.TRACKERS_MULTIPLY:
        reported = type(model)._aggregate_additional_loss(model, added)
    else:
        reported = tf.reduce_sum(tf.cast(added, keras.config.floatx()))
    if step is None:  # while Keras builds
        return reported
    has_rows = step.rows > 0  # the mean of none is NaN
    reported, added = (
        tf.where(has_rows, loss, tf.zeros_like(loss)) for loss in (reported, added)
    )
    share = tf.cast(_reduce.share(step.rows, _all_rows(step, replicas)), added.dtype)
    weighed = tf.reduce_sum(added) * share
    if isinstance(step, Part):
        return weighed
    return _reduce.value_with_gradient_of(replicas.to_reduce(weighed), reported)


def _refuse_sums_over_rows(model: keras.Model) -> None:
    if _keras_versions.ACTIVITY_IS_MEAN:
        return
    for layer in model._flatten_layers():
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ArgumentError(
                "Expected layers that add means over rows. Got layer "
                f"{layer.name!r} with an activity_regularizer, which adds a sum in "
                f"keras.__version__={keras.__version__}. Install Keras 3.14 or newer, "
                "or let a layer call self.add_loss with the mean."
            )


def _train_step(model: keras.Model, replicas: Replicas, data: Any) -> Any:
    _check_still_prepared(model)
    step = Step(microbatches.cut(data, 1).rows)
    with _denominators.during(step):
        if replicas.count() > 1 and _count_alike(model):
            results = _train_step_in_sums(model, replicas, step, data)
        else:
            results = type(model).train_step(model, data)
        return _as_keras_reads(results, model)


def _losses_of(model: keras.Model) -> list[DistributedLoss]:
    losses = keras.tree.flatten(getattr(model._compile_loss, "_user_loss", None))
    return [loss for loss in losses if loss is not None]


def _count_alike(model: keras.Model) -> bool:
    """Whether the losses of a step can be divided together, and some of them count."""
    losses = _losses_of(model)
    return (
        _keras_versions.TRACKERS_MULTIPLY
        # unlike a LossScaleOptimizer around one, until that is built
        and isinstance(model.optimizer, DistributedOptimizer)
        and any(loss.global_batch_size is None for loss in losses)
        and all(model.optimizer.sums_each_step_over(loss.replicas) for loss in losses)
    )


def _has_one_denominator(model: keras.Model) -> bool:
    losses = _losses_of(model)
    return (
        _count_alike(model)
        and len(losses) == 1
        and losses[0].counts
        and model.optimizer.carries
        and bool(model.trainable_weights)
    )


def _have_layers_added(model: keras.Model) -> bool:
    """Whether there are losses that are means over rows: of another denominator."""
    return any(layer._losses for layer in model._flatten_layers())


def _train_step_in_sums(
    model: keras.Model, replicas: Replicas, step: Step, data: Any
) -> Any:
    """What Keras' `train_step` does, with losses that are divided together."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        y_pred = _predictions(model, x, training=True)
        is_one = _has_one_denominator(model) and not _have_layers_added(model)
        step.terms = Carried() if is_one else Gathered(tape)
        loss_of = functools.partial(model._compute_loss, training=True)
        loss = unseen_by(_trackers(model), loss_of, x, y, y_pred, sample_weight)
        scaled = _scaled(model, replicas, loss)
    if is_one:
        step.terms.total = loss
        _apply(model, _gradients(tape, scaled, model))
        whole = step.terms.mean()
    else:
        step.terms.sum(replicas)
        unit = _scaled(model, replicas, tf.ones_like(loss))
        whole = _update_by_terms(model, step.terms, tape, scaled, unit)
        _track(model, step.terms.means(), x)
    model._loss_tracker.update_state(whole, sample_weight=step.rows)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _update_by_terms(
    model: keras.Model,
    terms: Gathered,
    tape: tf.GradientTape,
    scaled: tf.Tensor,
    unit: tf.Tensor,
) -> tf.Tensor:
    """Updates, with terms that are summed; the whole batch's loss."""
    count = len(model.trainable_weights)
    gradients = tape.gradient(scaled, [*model.trainable_weights, *terms.totals])
    _apply(model, gradients[:count])
    # What is optimised is linear in the terms, so their slopes tell it.
    slopes = zip(gradients[count:], terms.sums, strict=True)
    total = tf.add_n([tf.cast(slope, term.dtype) * term for slope, term in slopes])
    return total / tf.cast(unit, total.dtype)


def _scaled(model: keras.Model, replicas: Replicas, loss: tf.Tensor) -> tf.Tensor:
    """`loss` as its gradients are taken."""
    return model.optimizer.scale_loss(replicas.to_reduce(loss))


def _test_step(model: keras.Model, data: Any) -> Any:
    step = Step(microbatches.cut(data, 1).rows)
    step.all_rows = step.rows  # only gradients need those of others
    with _denominators.during(step):
        return _as_keras_reads(type(model).test_step(model, data), model)


def _as_keras_reads(results: Any, model: keras.Model) -> Any:
    """What a step reports, with an axis for Keras to average over.

    Over several workers it takes a mean over axis 0 besides that over replicas, which
    numbers do not have; elsewhere it does not.
    https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/tensorflow/trainer.py
    """
    if not _collective_all_reduce_multi_worker(model.distribute_strategy):
        return results
    return keras.tree.map_structure(lambda result: result[tf.newaxis], results)


def _train_step_in_parts(
    model: keras.Model, replicas: Replicas, most: int, data: Any
) -> Any:
    """What Keras' `train_step` does, in parts."""
    _check_still_prepared(model)
    if model._distribute_strategy is None:  # else Keras has built it
        model._symbolic_build(data_batch=data)
    parts = microbatches.cut(keras.utils.unpack_x_y_sample_weight(data), most)
    # An eager forward pass has its effects before it is known what layers add.
    if _has_one_denominator(model) and not tf.executing_eagerly():
        with contextlib.suppress(_LayersAddLosses):
            return _as_keras_reads(_sums_of_parts(model, replicas, parts), model)
    return _as_keras_reads(_shares_of_parts(model, replicas, parts), model)


class _LayersAddLosses(Exception):
    """So that a part cannot be divided by what is summed with the gradients."""


def _sums_of_parts(model: keras.Model, replicas: Replicas, parts: Parts) -> Any:
    """A step in parts whose denominator is summed with the gradients."""
    of_part = functools.partial(_gradients_of_sum, model, replicas)
    gradients, sums = microbatches.sum_over(parts, of_part)
    step = Step(parts.rows)
    step.terms = Carried()
    step.terms.total = step.terms.take(*tf.unstack(sums), _losses_of(model)[0].note)
    with _denominators.during(step):
        _apply(model, gradients)
    whole = step.terms.mean()
    model._loss_tracker.update_state(whole, sample_weight=parts.rows)
    return model.get_metrics_result()


def _gradients_of_sum(
    model: keras.Model, replicas: Replicas, data: Any
) -> tuple[list[Any], tf.Tensor]:
    """Gradients of this part's sum of losses; that sum and its weight."""
    x, y, sample_weight = data
    step = Step(microbatches.cut(data, 1).rows)
    with tf.GradientTape() as tape, _denominators.during(step):
        y_pred = _predictions(model, x, training=True)
        if _have_layers_added(model):
            raise _LayersAddLosses
        step.terms = Carried()
        total = model._compute_loss(x, y, y_pred, sample_weight, training=True)
        scaled = _scaled(model, replicas, total)
    step.terms.total = total
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    return _gradients(tape, scaled, model), step.terms.local()


def _shares_of_parts(model: keras.Model, replicas: Replicas, parts: Parts) -> Any:
    """A step in parts whose denominators are counted first."""
    forward = functools.partial(_loss_and_predictions, model, training=False)
    weights = unseen_by(model.metrics, microbatches.counted, parts, forward)
    counts = tf.concat([weights, [tf.cast(parts.rows, weights.dtype)]], 0)
    *denominators, all_rows = tf.unstack(replicas.sum(counts, "denominators"))
    of_part = functools.partial(
        _gradients_of_part,
        model,
        replicas,
        denominators,
        tf.cast(all_rows, tf.float32),
    )
    gradients, shares = unseen_by(
        _trackers(model), microbatches.sum_over, parts, of_part
    )
    loss, *losses = tf.unstack(replicas.sum(shares, "losses"))
    model._loss_tracker.update_state(loss, sample_weight=parts.rows)
    _track(model, losses, parts.data[0])
    _apply(model, gradients)
    return model.get_metrics_result()


def _trackers(model: keras.Model) -> list[Any]:
    """Of the losses of single outputs, where there are several."""
    return getattr(model._compile_loss, "metrics", [])


def _track(model: keras.Model, losses: list[tf.Tensor], x: Any) -> None:
    """Reports the losses of single outputs, as CompileLoss does."""
    static_rows = keras.tree.flatten(x)[0].shape[0]
    weights = _keras_versions.tracked_weights(model._compile_loss)
    factors = itertools.chain(weights, itertools.repeat(1.0))
    for tracker, value, factor in zip(_trackers(model), losses, factors, strict=False):
        tracker.update_state(factor * value, sample_weight=static_rows)


def _gradients_of_part(
    model: keras.Model,
    replicas: Replicas,
    denominators: list[tf.Tensor],
    all_rows: tf.Tensor,
    data: Any,
) -> tuple[list[Any], tf.Tensor]:
    """Gradients of this part's share; the share itself, then that of each loss."""
    part = Part(microbatches.cut(data, 1).rows, all_rows, denominators)
    with tf.GradientTape() as tape:
        loss, y_pred = _loss_and_predictions(model, part, data, training=True)
        scaled = _scaled(model, replicas, loss)
    x, y, sample_weight = data
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    shares = [tf.cast(share, tf.float32) for share in [loss, *part.shares]]
    return _gradients(tape, scaled, model), tf.stack(shares)


def _gradients(tape: tf.GradientTape, loss: tf.Tensor, model: keras.Model) -> list[Any]:
    gradients: list[Any] = tape.gradient(loss, model.trainable_weights)
    for gradient, weight in zip(gradients, model.trainable_weights, strict=True):
        # Dense of rows of tokens forgets a part of the shape
        if isinstance(gradient, tf.Tensor):
            gradient.set_shape(weight.shape)
    return gradients


def _apply(model: keras.Model, gradients: list[Any]) -> None:
    if model.trainable_weights:
        pairs = zip(gradients, model.trainable_weights, strict=True)
        model.optimizer.apply_gradients(
            [(microbatches.shaped(g, v), v) for g, v in pairs]
        )


def _loss_and_predictions(
    model: keras.Model, part: Part, data: Any, *, training: bool
) -> tuple[tf.Tensor, Any]:
    x, y, sample_weight = data
    with _denominators.during(part):
        y_pred = _predictions(model, x, training=training)
        loss = model._compute_loss(x, y, y_pred, sample_weight, training=training)
        return loss, y_pred


def _predictions(model: keras.Model, x: Any, *, training: bool) -> Any:
    given = {"training": training} if model._call_has_training_arg else {}
    return model(x, **given)


def _check_still_prepared(model: keras.Model) -> None:
    losses = keras.tree.flatten(getattr(model._compile_loss, "_user_loss", None))
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    are_ours = [isinstance(x, DistributedLoss) for x in losses if x is not None]
    if not (all(are_ours) and isinstance(inner, DistributedOptimizer)):
        raise ContextError(
            "Expected a prepared model, whose losses and optimizer are distributed. "
            f"Got model {model.name!r} with other ones: it was compiled again. Call "
            "distloss.prepare(model) after each model.compile(...)."
        )

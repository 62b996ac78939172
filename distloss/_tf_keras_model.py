"""`prepare` for a compiled model of tf-keras (Keras 2)."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import tensorflow as tf

from distloss import _denominators, _reduce, microbatches
from distloss._denominators import Part, Step
from distloss._errors import ArgumentError, ContextError
from distloss._global_loss import GlobalLoss, to_compile
from distloss._model_hooks import Hook, unseen_by
from distloss._tf_keras import SumsFirst
from distloss._tf_keras_loss import distributed_loss
from distloss.optimizers import DistributedOptimizer
from distloss.replicas import Replicas, current_strategy, replicas_or_current_strategy

OWN_METHODS = ("train_step", "test_step", "compute_loss")


def prepared(model: Any, replicas: Replicas | None, parts: int) -> Any:
    """`model`, of which each batch makes one update, as `distloss.prepare` says."""
    check_model(model)
    _check_replicas(replicas_or_current_strategy(replicas))
    _check_scope(model)
    with model.distribute_strategy.scope():
        _wrap_losses(model, replicas)
        if not _is_distributed(model.optimizer):
            model.optimizer = DistributedOptimizer(model.optimizer, replicas=replicas)
    _override_methods(model, replicas_or_current_strategy(replicas), parts)
    model._reset_compile_cache()  # functions that hold what was
    return model


def check_model(model: Any) -> None:
    """Raises ArgumentError where `model` is not as tf-keras compiles it."""
    if not (model._is_compiled and model.optimizer):
        raise ArgumentError(
            "Expected a compiled model, with a loss and an optimizer to wrap. Got "
            f"model {model.name!r}, which is not. Call model.compile(optimizer, loss) "
            "before distloss.prepare(model)."
        )
    keras_model = importlib.import_module("tf_keras").Model
    for name in OWN_METHODS:
        is_own = getattr(type(model), name) is not getattr(keras_model, name)
        if is_own or not isinstance(vars(model).get(name, Hook(len)), Hook):
            raise ArgumentError(
                f"Expected a model with the {name} of Keras. Got model {model.name!r} "
                f"of {type(model).__name__} with its own {name}, whose losses prepare "
                "cannot see. Compile it with distloss.DistributedLoss and distloss."
                "DistributedOptimizer instead, or use distloss.mean_share in it."
            )


def _check_replicas(replicas: Replicas) -> None:
    if not replicas.keras_sums_metrics:
        raise ArgumentError(
            "Expected the replicas of a tf.distribute strategy, over which tf-keras "
            f"sums metrics. Got replicas={replicas!r}. Compile the model with distloss."
            "DistributedLoss and distloss.DistributedOptimizer, both with these "
            "replicas, or prepare a model of Keras 3."
        )


def _check_scope(model: Any) -> None:
    own, current = model._distribution_strategy, current_strategy()
    if current is not None and current is not own:
        raise ContextError(
            "Expected a model that was made and compiled in the scope of the strategy "
            f"that it trains with. Got model {model.name!r}, which was made outside "
            "it. Call the function that makes and compiles it inside "
            "`with strategy.scope():`."
        )


def _wrap_losses(model: Any, replicas: Replicas | None) -> None:
    container = model.compiled_loss
    losses = container._user_losses
    if losses is None or _are_distributed(losses):
        return
    distribute = functools.partial(distributed_loss, replicas=replicas)
    wrap = functools.partial(to_compile, wrap=distribute)
    model.compiled_loss = type(container)(
        tf.nest.map_structure(wrap, losses),
        container._user_loss_weights,
        output_names=model.output_names,
    )


def _are_distributed(losses: Any) -> bool:
    present = [loss for loss in tf.nest.flatten(losses) if loss is not None]
    return all(isinstance(loss, GlobalLoss) for loss in present)


def _is_distributed(optimizer: Any) -> bool:
    return isinstance(getattr(optimizer, "inner_optimizer", optimizer), SumsFirst)


def _override_methods(model: Any, replicas: Replicas, parts: int) -> None:
    if parts == 1:
        model.train_step = Hook(_train_step, model)
    else:
        model.train_step = Hook(_train_step_in_parts, model, replicas, parts)
    model.test_step = Hook(_test_step, model)
    model.compute_loss = Hook(_compute_loss, model, replicas)
    model._get_compile_args = Hook(_compile_args, model)


def _compile_args(model: Any, user_metrics: bool = True) -> Any:
    """What files in the format of HDF5 hold: the losses as they were compiled."""
    arguments = type(model)._get_compile_args(model, user_metrics)
    return {**arguments, "loss": model.loss}


def _compute_loss(  # noqa: PLR0913
    model: Any,
    replicas: Replicas,
    x: Any = None,
    y: Any = None,
    y_pred: Any = None,
    sample_weight: Any = None,
) -> Any:
    """What `compute_loss` of tf-keras does, with added losses as shares."""
    step = _denominators.current_step()
    if step is None:
        return type(model).compute_loss(model, x, y, y_pred, sample_weight)
    count = model.distribute_strategy.num_replicas_in_sync
    losses = [_weighed(step, loss, replicas, count) for loss in model.losses]
    step.in_loss = True
    try:
        return model.compiled_loss(
            y, y_pred, sample_weight, regularization_losses=losses
        )
    finally:
        step.in_loss = False


def _weighed(step: Step, loss: tf.Tensor, replicas: Replicas, count: int) -> tf.Tensor:
    """An added loss, a mean over local rows, as a share of that over all rows.

    tf-keras divides it by `count` replicas, and its loss tracker weighs it by rows.
    """
    is_part = isinstance(step, Part)
    # tf-keras marks so what it gets from a callable, such as a weight regulariser
    if getattr(loss, "_unconditional_loss", False) and not is_part:
        return loss
    loss = tf.where(step.rows > 0, loss, tf.zeros_like(loss))  # the mean of none is NaN
    if step.all_rows is None:
        step.all_rows = replicas.sum(step.rows, "rows")
    rows = _reduce.share(step.rows, step.all_rows)
    weighed = loss * tf.cast(count * rows, loss.dtype)
    return weighed if is_part else _reduce.value_with_gradient_of(weighed, loss)


def _train_step(model: Any, data: Any) -> Any:
    _check_still_prepared(model)
    with _denominators.during(Step(microbatches.cut(data, 1).rows)):
        return type(model).train_step(model, data)


def _test_step(model: Any, data: Any) -> Any:
    step = Step(microbatches.cut(data, 1).rows)
    step.all_rows = step.rows  # only gradients need those of others
    with _denominators.during(step):
        return type(model).test_step(model, data)


def _train_step_in_parts(model: Any, replicas: Replicas, most: int, data: Any) -> Any:
    """What `train_step` of tf-keras does, in parts."""
    _check_still_prepared(model)
    unpack = importlib.import_module("tf_keras").utils.unpack_x_y_sample_weight
    parts = microbatches.cut(unpack(data), most)
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
    part = Part(microbatches.cut(data, 1).rows, all_rows, denominators)
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
    _x, y, sample_weight = data
    model.compiled_metrics.update_state(y, y_pred, sample_weight)
    shares = [tf.cast(share, tf.float32) for share in [loss, *part.shares]]
    return gradients, tf.stack(shares)


def _loss_and_predictions(
    model: Any, part: Part, data: Any, *, training: bool
) -> tuple[tf.Tensor, Any]:
    x, y, sample_weight = data
    with _denominators.during(part):
        y_pred = model(x, training=training)
        return model.compute_loss(x, y, y_pred, sample_weight), y_pred


def _apply(model: Any, gradients: list[Any]) -> None:
    optimizer, variables = model.optimizer, model.trainable_variables
    if not variables:
        return
    gradients = list(map(microbatches.shaped, gradients, variables))
    if hasattr(optimizer, "get_unscaled_gradients"):
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def _check_still_prepared(model: Any) -> None:
    ours = _are_distributed(model.compiled_loss._user_losses)
    if not (ours and _is_distributed(model.optimizer)):
        raise ContextError(
            "Expected a prepared model, whose losses and optimizer are distributed. "
            f"Got model {model.name!r} with other ones: it was compiled again. Call "
            "distloss.prepare(model) after each model.compile(...)."
        )

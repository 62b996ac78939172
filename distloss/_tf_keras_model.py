"""`prepare` for a compiled model of tf-keras (Keras 2)."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from distloss import _denominators, _empty, _reduce, _sparse, microbatches
from distloss._denominators import Part, Step
from distloss._errors import ArgumentError, ContextError
from distloss._global_loss import GlobalLoss, to_compile
from distloss._model_hooks import Hook, unseen_by
from distloss._tf_keras import SumsFirst
from distloss._tf_keras_loss import distributed_loss
from distloss.optimizers import DistributedOptimizer
from distloss.replicas import Replicas, current_strategy, replicas_or_current_strategy

OWN_METHODS = ("train_step", "test_step", "compute_loss")


class WholeStep(Step):
    """A step of all local rows at once.

    Attributes:
      trains: whether gradients are taken.
      may_be_empty: whether other replicas may have the rows, and this one none.
      kept: variables, with the values that they have again where there are no rows.
    """

    def __init__(self, data: Any, *, trains: bool) -> None:
        super().__init__(microbatches.cut(data, 1).rows)
        self.trains = trains
        self.may_be_empty = False
        self.kept: list[tuple[Any, tf.Tensor]] = []


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
    if model.compiled_metrics:
        update = Hook(_update_metrics, model.compiled_metrics, replicas)
        model.compiled_metrics.update_state = update
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
    is_alone = y is None or not _losses_of(model)
    losses = [_weighed(step, loss, replicas, is_alone) for loss in model.losses]
    are_numbers = all(loss.shape.rank == 0 for loss in losses)
    # An added loss alone has no rows for its tracker, to which it is then 0.
    counted = model.compiled_loss.metrics if is_alone and are_numbers else []
    step.in_loss = True
    try:
        return model.compiled_loss(
            y, y_pred, sample_weight, regularization_losses=losses
        )
    finally:
        step.in_loss = False
        _restore(step, counted)


def _losses_of(model: Any) -> list[Any]:
    losses = tf.nest.flatten(model.compiled_loss._user_losses)
    return [loss for loss in losses if loss is not None]


def _weighed(
    step: Step, loss: tf.Tensor, replicas: Replicas, is_alone: bool
) -> tf.Tensor:
    """An added loss, a mean over local rows, as a share of that over all rows.

    tf-keras divides it by the replicas, and its loss tracker weighs it by rows, but not
    where there are no other losses.
    """
    is_part = isinstance(step, Part)
    # tf-keras marks so what it gets from a callable, such as a weight regulariser
    is_of_weights = getattr(loss, "_unconditional_loss", False)
    # where a replica without rows has no gradient, others have its part of the loss
    if is_of_weights and not (is_part or getattr(step, "may_be_empty", False)):
        return loss
    count = replicas.count_as(loss.dtype)
    if loss.shape.rank != 0:
        _refuse_values_in_parts(loss, is_part)
        # tf-keras takes the gradient of their sum, and reports the mean of all
        return _reduce.value_with_gradient_of(count * loss, loss)
    loss = tf.where(step.rows > 0, loss, tf.zeros_like(loss))  # the mean of none is NaN
    if not (is_part or is_alone or getattr(step, "trains", False)):
        return loss  # only gradients need the rows of others
    share = _share_of_rows(step, replicas)
    weighed = loss * count * tf.cast(share, loss.dtype)
    if is_part or is_alone:
        return weighed
    return _reduce.value_with_gradient_of(weighed, loss)


def _refuse_values_in_parts(loss: tf.Tensor, is_part: bool) -> None:
    if is_part:
        raise ArgumentError(
            "Expected layers that add one number, the mean over their rows. Got "
            f"add_loss of a tensor of shape {loss.shape}, of which tf-keras takes the "
            "sum. Add tf.reduce_mean of it, or use microbatches=1."
        )


def _train_step(model: Any, data: Any) -> Any:
    _check_still_prepared(model)
    step = WholeStep(data, trains=True)
    with _denominators.during(step):
        data = _data_with_a_row(model, step, data)
        return type(model).train_step(model, data)


def _test_step(model: Any, data: Any) -> Any:
    _check_still_prepared(model)
    step = WholeStep(data, trains=False)
    with _denominators.during(step):
        data = _data_with_a_row(model, step, data)
        return type(model).test_step(model, data)


def _data_with_a_row(model: Any, step: WholeStep, data: Any) -> Any:
    """`data`, in which there is a row, of which no sum and no variable keeps anything.

    Its loss has no rows (`_tf_keras_loss`), its gradients are zeros (`_tf_keras`), and
    variables are what they were.
    """
    if not _may_be_empty(model, step):
        return data
    data = _empty.with_a_row(data)
    step.may_be_empty = True
    _build(model, *_unpacked(data))  # variables, of which some are to be kept
    for layer in model._flatten_layers():
        if hasattr(layer, "_sync_calculate_mean_and_var"):
            layer._sync_calculate_mean_and_var = Hook(_moments_of_rows, layer)
    statistics = (v for x in model._flatten_layers() for v in _statistics_of(x))
    metrics = (v for metric in model.metrics for v in metric.variables)
    step.kept = [(v, tf.identity(v)) for v in (*statistics, *metrics)]
    return data


def _may_be_empty(model: Any, step: Step) -> bool:
    # The same on all replicas, for they meet: an eager one knows no rows but its own.
    is_open = tf.executing_eagerly() or not tf.get_static_value(step.rows)
    return model.distribute_strategy.num_replicas_in_sync > 1 and is_open


def _statistics_of(layer: Any) -> list[Any]:
    """What a layer's own rows move on each replica apart."""
    if getattr(layer, "synchronized", False):
        return []  # moved by those of all
    own = tf.VariableSynchronization.ON_READ
    return [
        variable
        for variable in layer._non_trainable_weights
        if isinstance(variable, tf.distribute.DistributedValues)
        and variable.synchronization == own
    ]


def _moments_of_rows(layer: Any, x: Any, axes: Any, keep_dims: Any, mask: Any) -> Any:
    """What `layer` sums over replicas, of which some may have a row of zeros."""
    step = _denominators.current_step()
    if isinstance(step, WholeStep):
        x, mask = _empty.without_it((x, mask), step.rows)
    own = type(layer)._sync_calculate_mean_and_var
    return own(layer, x, axes, keep_dims, mask=mask)


def _restore(step: Step, counted: list[Any]) -> None:
    """Gives variables their values again where there are no rows; not of `counted`."""
    spared = {id(variable) for metric in counted for variable in metric.variables}
    for variable, value in getattr(step, "kept", []):
        if id(variable) not in spared:
            now = tf.identity(variable)
            variable.assign(tf.where(step.rows > 0, now, value))


def _update_metrics(
    container: Any,
    replicas: Replicas,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
) -> None:
    """What the container does, by rows where a metric is a number and not of rows."""
    step = _denominators.current_step()
    update = functools.partial(type(container).update_state, container)
    if not (isinstance(step, WholeStep) and step.may_be_empty):
        update(y_true, y_pred, sample_weight)
        return
    metrics = container.metrics
    kept = [[(v, tf.identity(v)) for v in metric.variables] for metric in metrics]
    with _numbers_noted(metrics) as are_numbers:
        update(y_true, y_pred, sample_weight)
    for metric, pairs in zip(metrics, kept, strict=True):
        share = _share_of_rows(step, replicas) if id(metric) in are_numbers else 1.0
        for variable, old in pairs:
            added = tf.identity(variable) - old
            new = old + tf.cast(share, added.dtype) * added
            variable.assign(tf.where(step.rows > 0, new, old))


def _share_of_rows(step: Step, replicas: Replicas) -> tf.Tensor:
    if step.all_rows is None:
        step.all_rows = replicas.sum(step.rows, "rows")
    return _reduce.share(step.rows, step.all_rows)


@contextlib.contextmanager
def _numbers_noted(metrics: list[Any]) -> Iterator[set[int]]:
    """While metrics are updated, those whose function gives a number: their ids."""
    found: set[int] = set()
    functions = [(m, m._fn) for m in metrics if hasattr(m, "_fn")]
    for metric, function in functions:
        metric._fn = functools.partial(_noted, function, found, id(metric))
    try:
        yield found
    finally:
        for metric, function in functions:
            metric._fn = function


def _noted(function: Any, found: set[int], key: int, *args: Any, **kwargs: Any) -> Any:
    values = function(*args, **kwargs)
    if tf.convert_to_tensor(values).shape.rank == 0:
        found.add(key)
    return values


def _train_step_in_parts(model: Any, replicas: Replicas, most: int, data: Any) -> Any:
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
    if tf.executing_eagerly():
        gradients = _empty.zeros_without_rows(gradients, part.rows)
    _x, y, sample_weight = data
    model.compiled_metrics.update_state(y, y_pred, sample_weight)
    shares = [tf.cast(share, tf.float32) for share in [loss, *part.shares]]
    return gradients, tf.stack(shares)


def _loss_and_predictions(
    model: Any, part: Part, data: Any, *, training: bool
) -> tuple[tf.Tensor, Any]:
    if tf.executing_eagerly():  # else a part without rows is not run
        data = _empty.with_a_row(data)
    x, y, sample_weight = data
    with _denominators.during(part):
        y_pred = model(x, training=training)
        loss = model.compute_loss(x, y, y_pred, sample_weight)
    if tf.executing_eagerly():
        y_pred = _empty.without_it(y_pred, part.rows)
    return loss, y_pred


def _apply(model: Any, gradients: list[Any]) -> None:
    optimizer, variables = model.optimizer, model.trainable_variables
    if not variables:
        return
    gradients = list(map(_sparse.shaped, gradients, variables))
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

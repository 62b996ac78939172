"""Losses and metrics in a step of a prepared model of tf-keras (Keras 2)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError
from distloss._formula import reduce
from distloss._formula.step_context import MicrobatchContext, StepContext, current_step
from distloss._keras.compiled_model import losses_given_to
from distloss._keras.tensors import is_of_weights
from distloss._keras.tf_keras import function_of, set_function
from distloss._prepare import microbatches
from distloss.replicas import Replicas


class WholeBatchContext(StepContext):
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


def compute_loss(  # noqa: PLR0913
    model: Any,
    replicas: Replicas,
    x: Any = None,
    y: Any = None,
    y_pred: Any = None,
    sample_weight: Any = None,
) -> Any:
    """What `compute_loss` of tf-keras does, with added losses as shares."""
    step = current_step()
    if step is None:
        return type(model).compute_loss(model, x, y, y_pred, sample_weight)
    is_alone = y is None or not losses_given_to(model)
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


def _weighed(
    step: StepContext, loss: tf.Tensor, replicas: Replicas, is_alone: bool
) -> tf.Tensor:
    """An added loss, a mean over local rows, as a share of that over all rows.

    tf-keras divides it by the replicas, and its loss tracker weighs it by rows, but not
    where there are no other losses.
    """
    is_part = isinstance(step, MicrobatchContext)
    # where a replica without rows has no gradient, others have its part of the loss
    if is_of_weights(loss) and not (is_part or getattr(step, "may_be_empty", False)):
        return loss
    count = replicas.count_as(loss.dtype)
    if loss.shape.rank != 0:
        _refuse_values_in_parts(loss, is_part)
        # tf-keras takes the gradient of their sum, and reports the mean of all
        return reduce.value_with_gradient_of(count * loss, loss)
    loss = tf.where(step.rows > 0, loss, tf.zeros_like(loss))  # the mean of none is NaN
    if not (is_part or is_alone or getattr(step, "trains", False)):
        return loss  # only gradients need the rows of others
    share = _share_of_rows(step, replicas)
    weighed = loss * count * tf.cast(share, loss.dtype)
    if is_part or is_alone:
        return weighed
    return reduce.value_with_gradient_of(weighed, loss)


def _refuse_values_in_parts(loss: tf.Tensor, is_part: bool) -> None:
    if is_part:
        raise ArgumentError(
            "Expected layers that add one number, the mean over their rows. Got "
            f"add_loss of a tensor of shape {loss.shape}, of which tf-keras takes the "
            "sum. Add tf.reduce_mean of it, or use microbatches=1."
        )


def _restore(step: StepContext, counted: list[Any]) -> None:
    """Gives variables their values again where there are no rows; not of `counted`."""
    spared = {id(variable) for metric in counted for variable in metric.variables}
    kept = getattr(step, "kept", [])
    restored_without_rows(step, [pair for pair in kept if id(pair[0]) not in spared])


def restored_without_rows(step: StepContext, kept: list[tuple[Any, tf.Tensor]]) -> None:
    """Gives variables the values that were kept, where this replica has no rows."""
    for variable, value in kept:
        now = tf.identity(variable)
        variable.assign(tf.where(step.rows > 0, now, value))


def update_metrics(
    container: Any,
    replicas: Replicas,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
) -> None:
    """What the container does, by rows where a metric is a number and not of rows."""
    step = current_step()
    update = functools.partial(type(container).update_state, container)
    if not (isinstance(step, WholeBatchContext) and step.may_be_empty):
        update(y_true, y_pred, sample_weight)
        return
    given = functools.partial(update, y_true, y_pred, sample_weight)
    share = functools.partial(_share_of_rows, step, replicas)
    updated_by_rows(step, container.metrics, given, share)


def updated_by_rows(
    step: StepContext,
    metrics: list[Any],
    update: Callable[[], Any],
    share: Callable[[], tf.Tensor],
) -> Any:
    """What `update` returns, of which `metrics` keep nothing without rows.

    And `share()`, the part of all rows that this replica has, where it is one number.
    """
    kept = [[(v, tf.identity(v)) for v in metric.variables] for metric in metrics]
    with _numbers_noted(metrics) as are_numbers:
        result = update()
    for metric, pairs in zip(metrics, kept, strict=True):
        part = share() if id(metric) in are_numbers else None
        for variable, old in pairs:
            new = tf.identity(variable)
            if part is not None:
                new = old + tf.cast(part, new.dtype) * (new - old)
            variable.assign(tf.where(step.rows > 0, new, old))
    return result


def _share_of_rows(step: StepContext, replicas: Replicas) -> tf.Tensor:
    return reduce.share(step.rows, step.count_rows(replicas))


@contextlib.contextmanager
def _numbers_noted(metrics: list[Any]) -> Iterator[set[int]]:
    """While metrics are updated, those whose function gives a number: their ids."""
    found: set[int] = set()
    functions = [(m, function_of(m)) for m in metrics if function_of(m) is not None]
    for metric, function in functions:
        set_function(metric, functools.partial(_noted, function, found, id(metric)))
    try:
        yield found
    finally:
        for metric, function in functions:
            set_function(metric, function)


def _noted(function: Any, found: set[int], key: int, *args: Any, **kwargs: Any) -> Any:
    values = function(*args, **kwargs)
    if tf.convert_to_tensor(values).shape.rank == 0:
        found.add(key)
    return values

"""The step of a loop of one's own, weighed as `prepare` weighs those of models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import ArgumentTypeError
from distloss._formula import empty
from distloss._formula.reduce import without_autograph
from distloss._formula.row_weights import RowWeightedContext
from distloss._formula.step_context import step_scope
from distloss._prepare.own_checks import checked_rows
from distloss._prepare.own_steps import (
    as_reported,
    keep_apart,
    mean_on_each,
    watch_keras,
)
from distloss.replicas import Replicas, replicas_or_current_strategy


def row_weighted(
    step: Callable[..., Any],
    *held: Any,
    rows: Any = None,
    replicas: Replicas | None = None,
) -> Callable[..., Any]:
    """`step`, whose gradients are means over its own rows, for all replicas together.

    For the function given to `strategy.run`, and for the step of a Horovod process:
    what `prepare` does for the `train_step` of a model. A replica with n_r of all R
    rows weighs its gradients by n_r / R, so that a mean over local rows becomes the
    mean over all rows, a regulariser counts once and a replica without rows counts
    nothing. The rows travel with the gradients: there is no further collective for raw
    means, and one of two scalars for a Keras loss with weights, masks or the reduction
    "sum".

    The step must update with a `DistributedOptimizer`; another one is refused when it
    updates. Where a replica has no rows, the step sees one row of zeros, of which
    gradients, numbers and the state of what is `held` keep nothing.

    Not for a step whose loss is a share already (divided by the size of the global
    batch) or a sum over rows; `mean_share` and `DistributedLoss` may be in it.

    Args:
      step: takes this replica's part of a batch, in any arguments, and makes one or
        more updates.
      *held: the Keras models, layers and metrics whose state the step changes besides
        its updates: layers with moving averages, metrics that it is to update.
      rows: this replica's number of rows: an int or scalar int tensor, or a function of
        the arguments of `step`. None takes the length of axis 0 of the arguments, of
        which all must have the same.
      replicas: who shares the batch; None means the current strategy's replicas.

    Returns:
      a function with the arguments of `step`. Floating scalars that `step` returns come
      back as this replica's part of the mean over all rows, so that
      `strategy.reduce("SUM", ...)` gives that mean; under Horovod, as the mean itself.
      What metrics told the step is that of all replicas already.

    Raises:
      ArgumentTypeError: `step` cannot be called, or one of `held` is of no Keras class.
      ArgumentError: when called: no argument has rows, or they disagree about them.
      ContextError: when called: an update by an optimizer that is not distributed, or a
        number given to a mean metric that is not `held`.

    Example:
      >>> import keras, tensorflow as tf
      >>> from distloss import DistributedOptimizer, row_weighted
      >>> weight = keras.Variable([3.0])
      >>> optimizer = DistributedOptimizer(keras.optimizers.SGD(0.5))
      >>> def step(x):
      ...     with tf.GradientTape() as tape:
      ...         loss = tf.reduce_mean(x * weight)
      ...     optimizer.apply(tape.gradient(loss, [weight]), [weight])
      ...     return loss
      >>> float(row_weighted(step)(tf.constant([1.0, 3.0])))
      6.0
      >>> weight.numpy().tolist()
      [2.0]

    Reference: examples/guides/own_loops.md.
    """
    _check_arguments(step, held)
    replicas_or_current_strategy(replicas)  # refuses what says nothing of replicas
    watch_keras()

    @without_autograph
    def begun(args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        found = replicas_or_current_strategy(replicas)
        if found.count() == 1:
            return None, args, kwargs
        context = RowWeightedContext(_rows(rows, args, kwargs), found)
        args, kwargs = empty.with_a_row((args, kwargs))
        context.inputs = tf.nest.flatten((args, kwargs))
        keep_apart(list(held), found)
        return context, args, kwargs

    # Converted by AutoGraph where the caller is, so that `step` is too.
    @functools.wraps(step)
    def weighed(*args: Any, **kwargs: Any) -> Any:
        context, args, kwargs = begun(args, kwargs)
        if context is None:
            return step(*args, **kwargs)
        with step_scope(context):
            return _reported(context, step(*args, **kwargs))

    return weighed


def _check_arguments(step: Any, held: tuple[Any, ...]) -> None:
    if not callable(step):
        raise ArgumentTypeError(
            "Expected step= to be a function that makes an update. Got "
            f"step={step!r} of type {type(step).__name__}."
        )
    for one in held:
        if not isinstance(one, keras.Layer | keras.metrics.Metric):
            raise ArgumentTypeError(
                "Expected the Keras models, layers and metrics that the step uses. Got "
                f"{one!r} of type {type(one).__module__}.{type(one).__name__}."
            )


@without_autograph
def _reported(context: RowWeightedContext, results: Any) -> Any:
    return as_reported(context, results, _part_or_mean)


def _rows(rows: Any, args: Any, kwargs: Any) -> Any:
    if rows is None:
        return checked_rows((args, kwargs))
    return rows(*args, **kwargs) if callable(rows) else rows


def _part_or_mean(step: RowWeightedContext, value: tf.Tensor) -> tf.Tensor:
    if not step.replicas.keras_sums_metrics:  # nobody else adds up processes
        return mean_on_each(step, value)
    return step.weigh(value)

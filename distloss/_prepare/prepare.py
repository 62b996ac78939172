"""The one line: a compiled Keras model in, the same model out, ready for replicas."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import keras

from distloss._errors import ArgumentError, ArgumentTypeError
from distloss._keras.compiled_model import (
    check_names_of,
    hold_losses,
    is_compiled,
    with_losses,
)
from distloss._keras.tf_keras import is_model
from distloss._prepare import prepare_own, tf_keras_model
from distloss._prepare.checks import (
    check_compiler,
    check_keras,
    check_layers,
    check_scope,
    not_compiled,
)
from distloss._prepare.found import distributed
from distloss._prepare.own_steps import has_own_steps
from distloss._prepare.raising import raise_from_fit
from distloss._prepare.step_hooks import override_methods
from distloss._types import OnNonfinite
from distloss.losses import DistributedLoss
from distloss.losses.global_loss import to_compile
from distloss.optimizers.arguments import checked_on_nonfinite
from distloss.replicas import Replicas, replicas_or_current_strategy


def prepare(
    model: keras.Model,
    *,
    replicas: Replicas | None = None,
    microbatches: int = 1,
    check_sums: bool = False,
    on_nonfinite: OnNonfinite | None = None,
) -> keras.Model:
    """Makes a compiled Keras model take one update of one global batch, however split.

    Wraps each loss in a `DistributedLoss` and the optimizer in a
    `DistributedOptimizer`, with its state kept; weighs what layers add with `add_loss`
    by each replica's rows; and lets `fit` begin with a batch that splits unevenly and
    run on several workers (`MultiWorkerMirroredStrategy`).
    Everything else of the model stays: callbacks, metrics, `evaluate`, `predict`,
    saving. A saved file is one of the model as it was compiled: prepare what
    `keras.models.load_model` returns. Prepare again after `compile`, too; a model that
    was compiled again without raises when it trains. Preparing twice changes nothing.

    **Micro-batches.** Each replica cuts its rows into `microbatches` parts and sums
    their gradients before one update. Memory holds the activations of one part, and
    the result is that of the whole batch. One loss is divided after the sum; where
    there are several, where layers add losses, under a `LossScaleOptimizer` and in
    eager mode, denominators are counted before the first part, in a forward pass of
    their own. Rows that do not divide make parts of unequal size; fewer rows than
    parts, fewer parts. Layers that look at other rows of the batch
    (`BatchNormalization`) see the rows of a part.

    **tf-keras.** A compiled `tf_keras.Model` (Keras 2) is prepared in the same way, for
    the replicas of a strategy.

    **Added losses.** What layers add with `add_loss` or an `activity_regularizer` is
    taken as a mean over rows where it is a scalar, and as a sum of losses of rows where
    it has an axis of rows, which Keras adds up; regularisers of weights count once. All
    are exact under any split. A sum over rows that is a scalar already cannot be told
    from a mean: add the losses of rows, or the mean.

    **Own steps.** A model with a `train_step`, `test_step` or `compute_loss` of its own
    keeps it as it is. Each of its optimizers, wherever attributes of the model
    and its layers hold one, also in lists and dicts, becomes a `DistributedOptimizer`.
    What the step differentiates is taken as a mean over this replica's rows, n_r of R:
    gradients are weighed by n_r / R, so that means over rows become the mean over all
    rows, regularisers count once and a replica without rows counts nothing. Keras
    losses with weights, masks or the reduction "sum" are exact too, by one small
    collective each, as are `DistributedLoss` and `mean_share`; Keras divides none of
    them by the number of replicas. A mean metric that is given a number of the step
    weighs it by rows, and a number that the step returns is the mean over rows of all
    replicas. What prepare cannot see stays wrong, and `distloss.audit` finds it: a sum
    over rows (give a Keras loss the reduction "sum", or take the mean), a division by
    the size of the global batch, losses that compare rows with each other. The step
    takes its batch whole: `microbatches=1`.

    **Replicas without rows**, as at the end of an epoch, compute with one row of zeros
    (empty strings, ragged rows of one element), since layers are not made for no rows.
    Nothing of it counts: losses, gradients, metrics and predictions leave it out,
    moving averages of layers stay as they were, and synchronised normalization does not
    see it. A layer of your own that gathers rows of other replicas does.

    **Checked sums.** With `check_sums=True` the sum of the gradients over replicas is
    checked on every step, by a few numbers that travel with them. A wrong sum makes no
    update: `fit` raises which step, replicas and variables it was, and, where all
    replicas are in this process, which pairs of them still have wrong sums. A gradient
    that is not finite, without a `LossScaleOptimizer` that looks after it, is traced
    back to the replica, the variable and the row, or to the sum itself. Several
    processes each judge what they received: where one alone got a wrong sum, the others
    have updated before they hear of it.

    Args:
      model: a compiled and not otherwise distributed `keras.Model` or `tf_keras.Model`,
        made inside the scope of the strategy that it is to train with.
      replicas: who shares the batch; None means the replicas of that strategy.
      microbatches: into how many parts each replica's rows are cut, a positive int.
      check_sums: whether sums over replicas are checked, see `DistributedOptimizer`.
      on_nonfinite: what to do where gradients are not finite: `"raise"`, the default
        with `check_sums=True`, `"warn"` or `"skip"`.

    Returns:
      `model`.

    Raises:
      ArgumentTypeError: an argument of a wrong type.
      ArgumentError: `microbatches` below 1, or above 1 with an own step; a model that
        is not compiled, or without an optimizer; a loss that cannot be wrapped; an
        `on_nonfinite` that is unknown or without `check_sums`.
      ContextError: the model or its optimizer was made outside the scope of the
        strategy.
      BackendError: the strategy has several replicas, and Keras is older than 3.5; or
        Keras lacks a private name that steps need, and which release has it.

    Example:
      >>> import keras
      >>> from distloss import prepare
      >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
      >>> model.compile("sgd", "mse")
      >>> prepare(model) is model
      True

    Reference: examples/guides/fit.md.
    """
    parts = _checked_parts(microbatches)
    checks = checked_on_nonfinite(check_sums, on_nonfinite)
    prepared = _prepared(model, replicas, parts, checks)
    if checks is not None:
        raise_from_fit(prepared)
    return prepared


def _prepared(
    model: Any, replicas: Replicas | None, parts: int, on_nonfinite: OnNonfinite | None
) -> Any:
    if is_model(model):
        return tf_keras_model.prepared(model, replicas, parts, on_nonfinite)
    _check_model(model)
    check_names_of(model)
    if has_own_steps(model):
        return prepare_own.prepared(model, replicas, parts, on_nonfinite)
    if model.optimizer is None:
        raise not_compiled(model)
    check_scope(model, [model.optimizer])
    check_keras(model)
    check_compiler(model)
    check_layers(model, parts)
    # What may still be refused comes before anything changes.
    wrap = functools.partial(DistributedLoss, replicas=replicas)
    losses = with_losses(model, functools.partial(to_compile, wrap=wrap))
    optimizer = distributed(model.optimizer, replicas, on_nonfinite)
    hold_losses(model, losses)
    model.optimizer = optimizer
    override_methods(model, replicas_or_current_strategy(replicas), parts)
    return model


def _checked_parts(parts: Any) -> int:
    if not isinstance(parts, numbers.Integral) or isinstance(parts, bool):
        raise ArgumentTypeError(
            "Expected microbatches= to be a number of parts of a batch, an int. Got "
            f"microbatches={parts!r} of type {type(parts).__name__}."
        )
    if parts < 1:
        raise ArgumentError(
            "Expected microbatches= to be at least 1 part per batch. Got "
            f"microbatches={parts}."
        )
    return int(parts)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise ArgumentTypeError(
            "Expected model= to be a compiled keras.Model. Got "
            f"model={model!r} of type {type(model).__module__}.{type(model).__name__}."
        )
    if not is_compiled(model):
        raise not_compiled(model)

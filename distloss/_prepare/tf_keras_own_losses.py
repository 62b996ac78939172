"""Losses of tf-keras (Keras 2) in a step whose gradients are weighed by rows."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import tensorflow as tf

from distloss._formula import reduce
from distloss._formula.row_weights import RowWeightedContext, row_weighted_context
from distloss._keras.tf_keras_own_steps import exchange_losses
from distloss._prepare.chosen_rows import counts_like_rows


class _Masked(NamedTuple):
    """Weights, and the mask, which a loss of tf-keras passes on as one."""

    sample_weight: Any
    mask: Any


def masked(
    of_keras: Any, values: Any, sample_weight: Any, mask: Any, reduction: str
) -> Any:
    """What a loss passes to `reduced` as its weights."""
    if row_weighted_context() is None or mask is None or reduction == "none":
        return of_keras(values, sample_weight, mask, reduction)
    return _Masked(sample_weight, mask)


def reduced(
    of_keras: Any,
    values: Any,
    sample_weight: Any = None,
    reduction: str = "sum_over_batch_size",
    name: str | None = None,
) -> Any:
    """What a loss makes of its element losses."""
    step = row_weighted_context()
    given = functools.partial(of_keras, values, sample_weight, reduction, name)
    if step is None or reduction == "none":
        return given()
    mask = None
    if isinstance(sample_weight, _Masked):
        sample_weight, mask = sample_weight
    if _is_mean_of_rows(step, values, sample_weight, mask, reduction):
        return given()
    if isinstance(values, tf.RaggedTensor) and sample_weight is None:
        values = values.flat_values
    local = reduce.weighted(values, sample_weight, mask)
    weight = reduce.weight_of(local, reduction, step.replicas)
    mean = step.mean_of(reduce.total(local), weight, f"loss_{reduction}")
    return tf.cast(mean, values.dtype)


def _is_mean_of_rows(
    step: RowWeightedContext, values: Any, sample_weight: Any, mask: Any, reduction: str
) -> bool:
    """Whether the mean that tf-keras takes weighs by rows.

    It does with weights too, since tf-keras divides by how many values there are, and
    not by their weight.
    """
    if values.shape.rank == 0 and mask is None:
        return True  # of rows already: a function of the user has taken it
    if mask is not None or reduction == "sum":
        return False
    of_weights = getattr(sample_weight, "shape", None)
    if of_weights is not None and not tf.TensorShape(of_weights)[1:].is_fully_defined():
        return False  # with which values may become more
    return counts_like_rows(values, step)


def reduction_of(of_keras: Any, loss: Any) -> Any:
    """How `loss` reduces, also where tf-keras refuses means on replicas."""
    if row_weighted_context() is None:
        return of_keras(loss)
    return "sum_over_batch_size" if loss.reduction == "auto" else loss.reduction


def report_means(container: Any) -> None:
    """Lets compiled losses, once they are built, report means in such steps."""
    exchange_losses(
        container,
        lambda loss: loss if isinstance(loss, _Reported) else _Reported(loss),
    )


class _Reported:
    """A compiled loss of which its tracker hears the mean over rows.

    tf-keras takes a sum for a share and multiplies it by the number of replicas, for
    its tracker to take their mean. In a step weighed by rows none is a share.
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/engine/compile_utils.py
    """

    def __init__(self, loss: Any) -> None:
        self._loss = loss

    @property
    def reduction(self) -> str:
        how: str = self._loss.reduction
        is_share = how == "sum" and row_weighted_context() is not None
        return "sum_over_batch_size" if is_share else how

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._loss(*args, **kwargs)

"""Shares of a global mean for losses that are computed by hand."""

from __future__ import annotations

import tensorflow as tf

from distloss._errors import ArgumentTypeError, ShapeError
from distloss._formula.reduce import (
    accumulator_dtype,
    element_weight,
    share,
    total,
    weighted,
    without_autograph,
)
from distloss._formula.row_weights import row_weighted_context
from distloss._formula.shapes import numbers
from distloss._types import TensorLike
from distloss.replicas import Replicas, replicas_or_current_strategy


@without_autograph
def mean_share(
    values: TensorLike,
    weights: TensorLike | None = None,
    *,
    replicas: Replicas | None = None,
) -> tf.Tensor:
    """This replica's share of the weighted mean over the whole batch.

    A mean of per-replica means is wrong once replicas hold different weight. Each
    replica divides its own sum by the weight of everybody's elements:

        share_r = sum_i(w_ri * v_ri) / sum_r,i(w_ri)

    Adding the shares gives the mean, so adding their gradients, as optimizers do
    under a `tf.distribute` strategy, gives its gradient. Costs one collective of
    one scalar; none for one replica.

    Args:
      values: local float, shape `[rows, ...]`, the loss of each row, token or
        pixel (unit of the loss). Summed in float32, or float64 if it is float64.
      weights: local number, zero or more, a shape that broadcasts to `values`;
        `[rows]` weighs rows. Zero drops a finite value. None weighs every element
        1. A mask is a weight of 0 or 1; masks that Keras attached are not looked at.
      replicas: who shares the batch; None means the current strategy's replicas.

    Returns:
      local float scalar, unit of the loss. Zero when nobody has weight.

    Raises:
      ShapeError: `values` is a scalar, or `weights` does not broadcast to it.
      ArgumentTypeError: `replicas` is of the wrong type, or `values` or `weights` are
        not of real numbers.
      ContextError: called in cross-replica context of several replicas.

    Example:
      >>> from distloss import OneDevice, mean_share
      >>> float(mean_share([2.0, 4.0], [1.0, 3.0], replicas=OneDevice()))
      3.5

    Reference: examples/guides/formula.md.
    """
    replicas = replicas_or_current_strategy(replicas)
    values = numbers(values, "values")
    if values.shape.rank == 0:
        raise ShapeError(
            "Expected the loss of each row, of shape [rows, ...]. Got a scalar, "
            f"values.shape={values.shape}. Pass the values before they are reduced."
        )
    local = weighted(values, weights)
    weight = tf.stop_gradient(element_weight(local))
    step = row_weighted_context()
    if step is not None:  # it weighs all that it computes by rows
        return step.mean_of(total(local), weight, "mean_share")
    own = share(total(local), replicas.sum(weight, "mean_share"))
    return replicas.loss_to_differentiate(own)


@without_autograph
def regularization_share(
    losses: TensorLike, *, replicas: Replicas | None = None
) -> tf.Tensor:
    """This replica's share of a term that is the same on every replica.

    A regulariser depends on the weights only, so N replicas that add their
    gradients count it N times. Each takes one N-th:

        share_r = sum(losses) / N

    `model.losses` may hold terms of three kinds, and only the first belongs here:

    - **Of weights only**, as regularisers are: this function.
    - **Means over local rows**, as layers add with `add_loss`: a mean over all rows
      weighs them by rows. Let the layer keep the loss of each row, and give that to
      `mean_share`; of a mean `m` of `n` rows, `mean_share(tf.fill([n], m))` makes the
      same, but of no rows, whose mean is NaN.
    - **Sums over local rows**: they add up to the sum over all rows. Add them as they
      are; divided by N, they would be too small by N.

    Args:
      losses: local float, a tensor or a list of tensors of any shape, such as the
        `model.losses` of a model whose layers add regularisers only; an empty list
        gives 0. Unit of the loss.
      replicas: who shares the batch; None means the current strategy's replicas.

    Returns:
      local float scalar, unit of the loss.

    Raises:
      ArgumentTypeError: `replicas` is of the wrong type, or `losses` is None or not
        of real numbers.

    Example:
      >>> import tensorflow as tf
      >>> from distloss import OneDevice, mean_share, regularization_share
      >>> one = OneDevice()
      >>> weights = tf.constant([3.0, 4.0])
      >>> of_weights = 0.01 * tf.reduce_sum(weights**2)
      >>> round(float(regularization_share(of_weights, replicas=one)), 6)
      0.25
      >>> of_rows = tf.constant([1.0, 2.0, 6.0])  # one number per row
      >>> float(mean_share(of_rows, replicas=one))  # for a mean over rows
      3.0
      >>> float(tf.reduce_sum(of_rows))  # a sum over rows: added as it is
      9.0

    Reference: `tf.nn.scale_regularization_loss`.
    """
    replicas = replicas_or_current_strategy(replicas)
    if losses is None:
        raise ArgumentTypeError(
            "Expected a tensor or a list of tensors. Got losses=None. Pass "
            "model.losses, which is an empty list where there is no regulariser."
        )
    terms = list(losses) if isinstance(losses, list | tuple) else [losses]
    terms = [numbers(term, "losses") for term in terms]
    dtype = accumulator_dtype(*terms)
    term_sums = [tf.reduce_sum(tf.cast(term, dtype)) for term in terms]
    everything = tf.add_n(term_sums) if term_sums else tf.zeros((), dtype)
    if row_weighted_context() is not None:  # the same on all: counts once
        return everything
    return replicas.loss_to_differentiate(everything / replicas.count_as(dtype))

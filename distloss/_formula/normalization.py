"""What divides the sums of a loss, where nothing around it does that later."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from distloss._formula import reduce
from distloss._formula.denominators import RecordsDenominator, recorded
from distloss.replicas import Replicas


class LossSums(NamedTuple):
    """One loss on one replica, before it is divided.

    Attributes:
      loss: whose they are; it is told W, once that is known.
      replicas: who shares the batch.
      name: whose sums, the same word on all replicas.
      total: S_r, local float scalar.
      weight: W_r, local float scalar, or None where W is fixed.
      fixed: W, global float scalar, or None where it is the sum of all W_r.
      sharing: see `reduce.sharing_of`.
      is_told: whether the caller has said what W is, so that no collective is needed.
    """

    loss: RecordsDenominator
    replicas: Replicas
    name: str
    total: tf.Tensor
    weight: tf.Tensor | None
    fixed: tf.Tensor | None
    sharing: tf.Tensor | None
    is_told: bool


def normalized_now(sums: LossSums) -> tf.Tensor:
    """The loss outside of a step that divides it later, by a collective of its own.

    Returns:
      float scalar, the same on all replicas unless W was told, whose gradient is that
      of this replica's share S_r / W.
    """
    of_sums = _share_of_told if sums.is_told else _share_of_counted
    share, reported, denominator = of_sums(sums)
    to_differentiate = sums.replicas.loss_to_differentiate(share)
    value = reduce.value_with_gradient_of(to_differentiate, reported)
    sums.loss.note(denominator)
    return recorded(value, denominator, sums.loss)


def sum_over_replicas(total: tf.Tensor, replicas: Replicas, name: str) -> tf.Tensor:
    """A sum over all rows, W = 1, whose gradient is that of this replica's part."""
    whole = replicas.sum(tf.stop_gradient(total), name)
    to_differentiate = replicas.loss_to_differentiate(total)
    return reduce.value_with_gradient_of(
        to_differentiate, replicas.loss_to_report(whole)
    )


class _Divided(NamedTuple):
    """S_r / W, local; what is reported instead; and W."""

    share: tf.Tensor
    reported: tf.Tensor
    denominator: tf.Tensor


def _share_of_told(sums: LossSums) -> _Divided:
    share = reduce.share(sums.total, sums.fixed)
    return _Divided(share, sums.replicas.share_to_report(share), sums.fixed)


def _share_of_counted(sums: LossSums) -> _Divided:
    # One vector, so one collective. Behind stop_gradient, because the gradient of
    # a sum over replicas is summed over replicas again: N times too large.
    parts = [p for p in (sums.total, sums.weight, sums.sharing) if p is not None]
    vector = tf.stop_gradient(tf.stack(parts))
    summed = sums.replicas.sum(vector, sums.name)
    denominator = sums.fixed if sums.weight is None else summed[1]
    if sums.sharing is not None:
        denominator = reduce.once(denominator, summed[2], sums.replicas)
    reported = sums.replicas.loss_to_report(reduce.share(summed[0], denominator))
    return _Divided(reduce.share(sums.total, denominator), reported, denominator)

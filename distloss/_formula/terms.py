"""The losses of one step on one replica: collected first, divided when all are known.

Each stays a local sum S_r until the forward pass is over. Then there are two ways:

- *fused*: one loss, besides what is the same on all replicas, and no layer that meets
  those of other replicas. Each replica takes the gradient of its own mean, S_r / W_r,
  and multiplies it by W_r; S, W and the gradients are summed together and divided by W.
  No collective but that of the gradients. Until then the mean is divided by the number
  of replicas and parts, so that numbers in the backward pass are about as large as
  those of the mean of all, and float16 activations do not overflow.
- *summed first*: several denominators. One collective sums all S_r and W_r, and
  gradients are taken after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from distloss._formula import reduce, sparse
from distloss._formula.normalization import LossSums
from distloss.replicas import Replicas

# By what a replica's gradient is weighed where its loss has no weight. Regularisers are
# the same on all replicas, so any weight will do for them, but not 0 on all of them;
# beside weights of 1e-10 and more it is less than rounding.
_SOME = 2.0**-60


class _Term(NamedTuple):
    """A loss of the step.

    Attributes:
      total: local float scalar, S_r.
      weight: local float scalar, W_r.
      note: who wants to know W, once it is known.
    """

    total: tf.Tensor
    weight: tf.Tensor
    note: Callable[[tf.Tensor], None] | None


class Terms:
    """What takes the losses of a step, and divides their gradients later."""

    def __init__(self, tape: tf.GradientTape) -> None:
        self._tape = tape
        self._terms: list[_Term] = []
        self._losses = 0
        self._fit_together = True  # all weigh nothing on a replica without rows
        self._denominators: list[tf.Tensor] = []
        self._shares = tf.ones(())

    def add_loss(self, sums: LossSums) -> tf.Tensor:
        """A loss: its S_r, whose gradient will be that of its share."""
        weight = sums.weight
        if weight is None:  # each replica's part of what is fixed
            weight = sums.fixed / sums.replicas.count_as(sums.total.dtype)
            self._fit_together = False
        self._losses += 1
        return self._added(_Term(sums.total, weight, sums.loss.note))

    def add_constant(self, value: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """A term that depends on weights only, the same on all replicas."""
        return self._added(_row_mean(value, rows))

    def add_row_mean(self, mean: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """A mean over local rows: it weighs as much as there are rows."""
        self._fit_together = False
        return self._added(_row_mean(mean, rows))

    def add_sum(self, total: tf.Tensor, replicas: Replicas) -> tf.Tensor:
        """A sum over local rows: its denominator is 1, in equal parts on replicas."""
        self._fit_together = False
        weight = 1.0 / replicas.count_as(total.dtype)
        return self._added(_Term(total, weight, None))

    def _added(self, term: _Term) -> tf.Tensor:
        index = len(self._terms)
        self._tape.watch(term.total)
        self._terms.append(term)

        @tf.custom_gradient
        def divided_later(value: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                denominator = tf.cast(self._denominators[index], upstream.dtype)
                return reduce.share(upstream, denominator)

            return tf.identity(value), gradient

        return divided_later(term.total)

    @property
    def totals(self) -> list[tf.Tensor]:
        """Local float scalars, S_r of each term: where gradients tell their factors."""
        return [term.total for term in self._terms]

    @property
    def can_fuse(self) -> bool:
        """Whether all terms are right when weighed by the denominator of one loss."""
        return self._fit_together and self._losses == 1

    def divide_by_own(self, shares: tf.Tensor) -> None:
        """Lets gradients be those of means over this replica's own elements.

        Args:
          shares: float scalar, by which they are divided besides: how many such means
            there are, in all parts and on all replicas.
        """
        self._shares = shares
        self._denominators = [
            term.weight * tf.cast(shares, term.weight.dtype) for term in self._terms
        ]

    def fused(
        self, factors: list[tf.Tensor], unit: tf.Tensor, rows: tf.Tensor
    ) -> FusedWithGradients:
        """What is to be summed with the gradients, after `divide_by_own`.

        Args:
          factors: the gradients of the step's loss with respect to `totals`.
          unit: the gradient of what is differentiated with respect to that loss.
          rows: local float scalar, this replica's rows.
        """
        mean = _linear(factors, self.totals)
        shares = tf.cast(self._shares, mean.dtype)
        mean = mean * shares / tf.cast(unit, mean.dtype)
        rows = tf.cast(rows, mean.dtype)
        weight, note = next((t.weight, t.note) for t in self._terms if t.note)
        weight = tf.cast(weight, mean.dtype)
        weight = tf.where(weight == 0, _SOME * tf.sign(rows), weight)
        vector = tf.stack([weight * mean, weight, rows])
        return FusedWithGradients(vector, weight * shares, note)

    def sum(self, replicas: Replicas, rows: tf.Tensor) -> Sums:
        """The sums over all replicas, by one collective of a vector.

        From then on gradients are those of shares.
        """
        local = [*self.totals, *(term.weight for term in self._terms), rows]
        dtype = reduce.accumulator_dtype(*local)
        vector = tf.stack([tf.cast(part, dtype) for part in local])
        summed = tf.unstack(replicas.sum(tf.stop_gradient(vector), "losses"))
        count = len(self._terms)
        totals, self._denominators = summed[:count], summed[count : 2 * count]
        for term, denominator in zip(self._terms, self._denominators, strict=True):
            if term.note is not None:
                term.note(denominator)
        means = [
            reduce.share(total, denominator)
            for term, total, denominator in zip(
                self._terms, totals, self._denominators, strict=True
            )
            if term.note is not None
        ]
        return Sums(totals, means, summed[-1])


def _row_mean(mean: tf.Tensor, rows: tf.Tensor) -> _Term:
    return _Term(mean * tf.cast(rows, mean.dtype), rows, None)


def _linear(factors: list[tf.Tensor], totals: list[tf.Tensor]) -> tf.Tensor:
    """What the step optimises: it is linear in its terms, some of which it may ignore.

    Of several losses of one output, Keras computes all and optimises one.
    """
    products = [
        tf.cast(factor, total.dtype) * total
        for factor, total in zip(factors, totals, strict=True)
        if factor is not None
    ]
    return tf.add_n(products)


class Sums(NamedTuple):
    """The terms of a step, summed over replicas.

    Attributes:
      totals: global float scalars, S of each term.
      means: global float scalars, S / W of each loss, in the order of their calls.
      rows: global float scalar.
    """

    totals: list[tf.Tensor]
    means: list[tf.Tensor]
    rows: tf.Tensor

    def loss(self, factors: list[tf.Tensor], unit: tf.Tensor) -> tf.Tensor:
        """The loss of the whole batch; arguments as for `Terms.fused`."""
        loss = _linear(factors, self.totals)
        return loss / tf.cast(unit, loss.dtype)


class FusedWithGradients:
    """What travels with the gradients of a step.

    Attributes:
      vector: local float `[3]`: the loss times its weight, that weight, the rows.
      weight: local float scalar, by which this replica's gradients are multiplied.
    """

    def __init__(
        self,
        vector: tf.Tensor,
        weight: tf.Tensor,
        note: Callable[[tf.Tensor], None],
    ) -> None:
        self.vector, self.weight = vector, weight
        self._note = note
        self._sums: list[tf.Tensor] = []

    def weighed(self, gradient: Any) -> Any:
        """`gradient` of the local mean, to be summed; zeros without rows, be it NaN.

        In float32 at least: sums of float16 would overflow.
        """
        dtype = reduce.accumulator_dtype(gradient)
        wide = gradient if gradient.dtype == dtype else tf.cast(gradient, dtype)
        return sparse.times(wide, tf.cast(self.weight, dtype))

    def to_sum(self, gradients: list[Any]) -> tuple[list[Any], tf.Tensor]:
        """`gradients`, weighed before, and the vector."""
        return gradients, self.vector

    def divided(self, gradients: list[Any], sums: tf.Tensor) -> list[Any]:
        """Sums of weighed gradients, divided by the weight of all replicas.

        Args:
          gradients: global, what `weighed` gave, summed.
          sums: global float `[3]`, the sum of `vector`.
        """
        self._sums = tf.unstack(tf.convert_to_tensor(sums))
        weight = self._sums[1]
        self._note(weight)
        part = reduce.share(tf.ones_like(weight), weight)  # inverted once for all
        return [tf.math.scalar_mul(tf.cast(part, g.dtype), g) for g in gradients]

    @property
    def loss(self) -> tf.Tensor:
        """Global float scalar, the loss of the whole batch, after `divided`."""
        return reduce.share(self._sums[0], self._sums[1])

    @property
    def rows(self) -> tf.Tensor:
        """Global float scalar, the rows of all replicas, after `divided`."""
        return self._sums[2]

"""The losses of one step on one replica: collected first, divided when all are known.

Each stays a local sum S_r until the forward pass is over. Then there are two ways:

- *fused*: one loss, besides what is the same on all replicas, and no layer that meets
  those of other replicas. S, W and the gradients are summed together, by no collective
  but that of the gradients. In one process W is known before, by adding up what is in
  its memory, and gradients are those of shares. Else each replica takes the gradient of
  its own mean, S_r / W_r, and multiplies it by W_r; the sum is divided by W. Until then
  the mean is divided by the number of replicas and parts, so that numbers in the
  backward pass are about as large as those of the mean of all, and float16 activations
  do not overflow.
- *summed first*: several denominators. One collective sums all S_r and W_r, and
  gradients are taken after it; in one process they wait for no loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from distloss._formula import reduce, sparse
from distloss._formula.in_memory import are_in_memory, sum_in_memory
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

    def __init__(self, tape: tf.GradientTape, rows: tf.Tensor) -> None:
        """`rows`: local float32 scalar, those of this replica or part."""
        self._tape, self._rows = tape, rows
        self._terms: list[_Term] = []
        self._losses = 0
        self._fit_together = True  # all weigh nothing on a replica without rows
        self._denominators: list[tf.Tensor] = []
        self._divisor = tf.ones(())
        self._factor: tf.Tensor | None = None

    def add_loss(self, sums: LossSums) -> tf.Tensor:
        """A loss: its S_r, whose gradient will be that of its share."""
        weight = sums.weight
        if weight is None:  # each replica's part of what is fixed
            weight = sums.fixed / sums.replicas.count_as(sums.total.dtype)
            self._fit_together = False
        self._losses += 1
        return self._added(_Term(sums.total, weight, sums.loss.note))

    def add_constant(self, value: tf.Tensor) -> tf.Tensor:
        """A term that depends on weights only, the same on all replicas."""
        return self._added(self._row_mean(value))

    def add_row_mean(self, mean: tf.Tensor) -> tf.Tensor:
        """A mean over local rows: it weighs as much as there are rows."""
        self._fit_together = False
        return self._added(self._row_mean(mean))

    def add_sum(self, total: tf.Tensor, replicas: Replicas) -> tf.Tensor:
        """A sum over local rows: its denominator is 1, in equal parts on replicas."""
        self._fit_together = False
        weight = 1.0 / replicas.count_as(total.dtype)
        return self._added(_Term(total, weight, None))

    def _row_mean(self, mean: tf.Tensor) -> _Term:
        return _Term(mean * tf.cast(self._rows, mean.dtype), self._rows, None)

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

    def divide(self, replicas: Replicas) -> None:
        """Lets gradients be those of shares, or, where W is not known, of own means."""
        if are_in_memory(replicas):
            self.divide_by(sum_in_memory(replicas, self._own_weight), None)
        else:
            own = self.own_divisor(replicas.count_as(tf.float32))
            self.divide_by(own, own)

    def own_divisor(self, shares: tf.Tensor) -> tf.Tensor:
        """About the weight of all, local float scalar: `shares` times that of these.

        Args:
          shares: float scalar, how many there are, in all parts and on all replicas.
        """
        weight = self._loss.weight  # for which, if it is 0, the number of rows stands
        typical = tf.where(weight == 0, tf.cast(self._rows, weight.dtype), weight)
        return typical * tf.cast(shares, weight.dtype)

    @property
    def _loss(self) -> _Term:
        """The one loss, where all is fused."""
        return next(term for term in self._terms if term.note)

    @functools.cached_property
    def _own_weight(self) -> tf.Tensor:
        """W_r of the one loss, local float scalar; not 0 where there are rows."""
        weight = self._loss.weight
        some = _SOME * tf.sign(tf.cast(self._rows, weight.dtype))
        return tf.where(weight == 0, some, weight)

    def divide_by(self, divisor: tf.Tensor, factor: tf.Tensor | None) -> None:
        """Lets gradients be those of the own mean, times own weight, over `divisor`.

        Args:
          divisor: local float scalar. The more it is like the weight of all, the more
            the numbers of the backward pass are like those of the mean over all.
          factor: see `FusedWithGradients`.
        """
        self._divisor, self._factor = divisor, factor
        own = self._own_weight
        self._denominators = [
            tf.cast(divisor, term.weight.dtype)
            * reduce.share(term.weight, tf.cast(own, term.weight.dtype))
            for term in self._terms
        ]

    def fused(self, factors: list[tf.Tensor], unit: tf.Tensor) -> FusedWithGradients:
        """What is to be summed with the gradients, after they are divided.

        Args:
          factors: the gradients of the step's loss with respect to `totals`.
          unit: the gradient of what is differentiated with respect to that loss.
        """
        loss = _linear(factors, self.totals)
        loss = loss * tf.cast(self._divisor, loss.dtype) / tf.cast(unit, loss.dtype)
        others = (tf.cast(x, loss.dtype) for x in (self._own_weight, self._rows))
        note: Any = self._loss.note
        return FusedWithGradients(tf.stack([loss, *others]), self._factor, note)

    def sum(self, replicas: Replicas) -> Sums:
        """The sums over all replicas, by one collective of a vector.

        From then on gradients are those of shares.
        """
        count, local = len(self._terms), [*self.totals]
        local += [*(term.weight for term in self._terms), self._rows]
        dtype = reduce.accumulator_dtype(*local)
        vector = tf.stop_gradient(tf.stack([tf.cast(part, dtype) for part in local]))
        if are_in_memory(replicas):
            weights = sum_in_memory(replicas, vector[count:])
            totals = replicas.sum(vector[:count], "losses")
        else:
            sums = replicas.sum(vector, "losses")
            totals, weights = sums[:count], sums[count:]
        totals, (*self._denominators, all_rows) = map(tf.unstack, (totals, weights))
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
        return Sums(totals, means, all_rows)


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
      factor: local float scalar, by which this replica's gradients are multiplied
        before they are summed; None where they are those of shares, so that their sum
        is divided already, and where somebody else multiplies them.
    """

    def __init__(
        self,
        vector: tf.Tensor,
        factor: tf.Tensor | None,
        note: Callable[[tf.Tensor], None],
    ) -> None:
        self.vector, self.factor = vector, factor
        self._note = note
        self._sums: list[tf.Tensor] = []

    def weighed(self, gradient: Any) -> Any:
        """`gradient`, to be summed; zeros without rows, be it NaN, if it is multiplied.

        In float32 at least: sums of float16 would overflow.
        """
        dtype = reduce.accumulator_dtype(gradient)
        wide = sparse.cast(gradient, dtype)
        if self.factor is None:
            return wide
        return sparse.times(wide, tf.cast(self.factor, dtype))

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
        if self.factor is None:
            return gradients
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

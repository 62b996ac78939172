"""Losses of one step, summed over replicas together and divided after that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distloss import _reduce
from distloss.replicas import Replicas

_Note = Callable[[tf.Tensor], None]


class Carried:
    """What travels with the gradients of a step whose one loss is not divided yet.

    Gradients of S_r are summed, together with S_r and W_r, and then divided by W: no
    collective but that of the gradients.

    Attributes:
      total: local float scalar, S_r with what else is optimised, set by the step.
      weight: local float scalar, W_r.
      sums: global float scalars, S and W, set by the optimizer.
      note: who wants to know W, once it is known.
    """

    total: tf.Tensor
    weight: tf.Tensor
    sums: list[tf.Tensor]
    note: _Note

    def take(self, total: tf.Tensor, weight: tf.Tensor, note: _Note) -> tf.Tensor:
        """The one loss: `total` itself."""
        self.weight, self.note = weight, note
        return total

    def take_mean(self, mean: tf.Tensor, _rows: tf.Tensor) -> tf.Tensor:
        """What is added to it, the same on all replicas: W_r times, which W divides."""
        return mean * tf.cast(self.weight, mean.dtype)

    def local(self) -> tf.Tensor:
        """What is summed with the gradients, `[2]`."""
        return tf.stack([self.total, tf.cast(self.weight, self.total.dtype)])

    def mean(self) -> tf.Tensor:
        """The loss of the whole batch, after the update."""
        total, denominator = self.sums
        self.note(denominator)
        return _reduce.share(total, denominator)


class Gathered:
    """Losses of a step, each S_r until one collective has summed all S_r and W_r.

    Gradients are taken after that, and divided by what it brought.

    Attributes:
      totals: local float scalars, S_r of each loss.
      sums: global float scalars, S of each.
      denominators: global float scalars, W of each.
    """

    def __init__(self, tape: tf.GradientTape) -> None:
        self.totals: list[tf.Tensor] = []
        self.sums: list[tf.Tensor] = []
        self.denominators: list[tf.Tensor] = []
        self._tape = tape
        self._weights: list[tf.Tensor] = []
        self._notes: list[_Note | None] = []

    def take(
        self, total: tf.Tensor, weight: tf.Tensor, note: _Note | None = None
    ) -> tf.Tensor:
        """One loss: `total`, with the gradient of its share."""
        index = len(self.totals)
        self._tape.watch(total)
        self.totals.append(total)
        self._weights.append(weight)
        self._notes.append(note)

        @tf.custom_gradient
        def divided_later(value: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                denominator = tf.cast(self.denominators[index], upstream.dtype)
                return _reduce.share(upstream, denominator)

            return tf.identity(value), gradient

        return divided_later(total)

    def take_mean(self, mean: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """A mean over local rows: a loss that weighs as many as there are."""
        mean = tf.where(rows > 0, mean, tf.zeros_like(mean))  # that of none is NaN
        return self.take(mean * tf.cast(rows, mean.dtype), rows)

    def sum(self, replicas: Replicas) -> None:
        """Sums all, by one collective of a vector."""
        local = [*self.totals, *self._weights]
        dtype = _reduce.accumulator_dtype(*local)
        vector = tf.stack([tf.cast(part, dtype) for part in local])
        sums = tf.unstack(replicas.sum(tf.stop_gradient(vector), "losses"))
        self.sums, self.denominators = sums[: len(sums) // 2], sums[len(sums) // 2 :]
        for note, denominator in zip(self._notes, self.denominators, strict=True):
            if note is not None:
                note(denominator)

    def means(self) -> list[tf.Tensor]:
        """Each loss of the whole batch, in the order in which they were taken."""
        return list(map(_reduce.share, self.sums, self.denominators))

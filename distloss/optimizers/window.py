"""Gradients that are kept as sums until they make an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distloss._formula import reduce
from distloss._keras.versions import per_replica_variable
from distloss._types import Gradient

# A power of two, so that nothing is rounded; float32 has room for such gradients.
NO_WEIGHT = 2.0**-80


class Window(tf.Module):
    """What was accumulated since the last update, on each replica.

    Not in the optimizer's `variables`, so that files hold what Keras expects.

    Attributes:
      batches: int scalar, how many.
      denominator: global float scalar, the sum of their W.
      reached: int, per variable: how many of the batches have a gradient of it.
      sums: local, per variable: the sum of their gradients, each times its W.

    A batch without weight counts as one of `NO_WEIGHT`: beside others nothing is left
    of it, but where none has any, regularisers of weights still make an update.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        super().__init__(name="window")
        of_all = "only_first_replica"
        dtype = reduce.accumulator_dtype(*variables).name
        self.batches = per_replica_variable((), "int64", of_all)
        self.denominator = per_replica_variable((), dtype, of_all)
        self.reached = per_replica_variable((len(variables),), "int64", of_all)
        self.sums = [
            per_replica_variable(v.shape, reduce.accumulator_dtype(v).name, "sum")
            for v in variables
        ]
        self._ever_reached: set[int] = set()  # in any function that was traced

    def add(
        self, gradients: dict[int, Gradient | None], denominator: tf.Tensor
    ) -> None:
        """Adds the gradients of one batch, by the index of their variable."""
        present = {i: g for i, g in gradients.items() if g is not None}
        self._ever_reached.update(present)
        weight = tf.cast(denominator, self.denominator.dtype)
        weight = tf.where(weight == 0, tf.cast(NO_WEIGHT, weight.dtype), weight)
        for i, sparse_or_dense in present.items():
            gradient = tf.cast(
                tf.convert_to_tensor(sparse_or_dense), self.sums[i].dtype
            )
            self.sums[i].assign_add(gradient * tf.cast(weight, gradient.dtype))
        counts = [int(i in present) for i in range(len(self.sums))]
        self.reached.assign_add(tf.constant(counts, tf.int64))
        self.denominator.assign_add(weight)
        self.batches.assign_add(1)

    def shares(self) -> dict[int, tf.Tensor]:
        """Local gradients of all batches as one, by the index of their variable."""
        return {
            i: reduce.share(
                tf.convert_to_tensor(self.sums[i]),
                tf.cast(self.denominator, self.sums[i].dtype),
            )
            for i in self._indices()
        }

    def _indices(self) -> list[int]:
        """Of the variables that any batch of the window has reached."""
        reached = tf.convert_to_tensor(self.reached)
        if tf.executing_eagerly():
            return [i for i, count in enumerate(reached.numpy()) if count]
        # A graph cannot choose when it runs. Those that others reached have gradients
        # of zero in windows that do not reach them.
        lost = [int(i not in self._ever_reached) for i in range(len(self.sums))]
        tf.debugging.assert_equal(
            tf.reduce_sum(reached * lost),
            tf.zeros((), tf.int64),
            "Expected the function that makes the update to know all variables that "
            "the batches of the window have reached. Got one that was traced before "
            "another function reached others: their gradients would be lost. Call the "
            "functions in an order in which the last to be traced makes the first "
            "update, or take all steps in one function.",
        )
        return sorted(self._ever_reached)

    def clear(self) -> None:
        """Forgets everything."""
        counts = [self.batches, self.denominator, self.reached]
        for variable in [*counts, *self.sums]:
            variable.assign(tf.zeros_like(variable))

"""A step that somebody else wrote, whose loss is a mean over its own rows.

Replica r holds n_r of all R rows and g_r, the gradient of its mean. Then

    g = sum_r (n_r / R) * g_r

is the gradient of the mean over all rows: means of rows weigh by rows, what is the same
on every replica counts once, a replica without rows counts nothing. The rows travel
with the gradients, or are added up in one memory, so that this costs no collective.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distloss._formula import reduce, sparse
from distloss._formula.in_memory import are_in_memory
from distloss._formula.normalization import LossSums
from distloss._formula.step_context import StepContext, current_step
from distloss.replicas import Replicas


class RowWeightedContext(StepContext):
    """Such a step on one replica, being traced or run.

    Attributes:
      replicas: who shares the batch.
      fused: the rows, which travel with the gradients of each optimizer.
      results: what metrics have told this step, each with its metric.
    """

    def __init__(self, rows: tf.Tensor | int, replicas: Replicas) -> None:
        is_sure = isinstance(rows, int) and rows > 0
        super().__init__(rows, may_be_empty=not is_sure)
        self.replicas = replicas
        self.in_loss = True  # whatever a step calls may be a part of its loss
        self.fused = RowsWithGradients(self)
        self.results: list[tuple[tf.Tensor, Any]] = []

    def count_rows(self, replicas: Replicas) -> tf.Tensor:
        """The rows of all replicas; summed again where an inner graph has the sum.

        Between processes, by a collective of its own where no optimizer has brought
        them yet.
        """
        if self.all_rows is not None and not _is_here(self.all_rows):
            self.all_rows = None
        return super().count_rows(replicas)

    @property
    def weighs_by_parts(self) -> bool:
        """Whether gradients are weighed by n_r / R, and their sums not divided by R.

        Where R is known before, and where sums are sent in few bits, or averaged:
        float16 would not hold so many rows.
        """
        return are_in_memory(self.replicas) or not self.replicas.sums_are_exact

    def part(self) -> tf.Tensor:
        """n_r / R, local float32 scalar: by what means of this replica weigh."""
        return reduce.share(self.rows, self.count_rows(self.replicas))

    def weigh(self, value: tf.Tensor) -> tf.Tensor:
        """This replica's part, n_r / R, of a mean over its rows; 0 without rows."""
        return self.of_rows(value) * tf.cast(self.part(), value.dtype)

    def note_result(self, result: Any, metric: Any) -> None:
        """Notes that `result`, a nest, is what `metric` says of all replicas."""
        self.results.extend((leaf, metric) for leaf in tf.nest.flatten(result))

    def normalize(self, sums: LossSums) -> tf.Tensor:
        """What makes S / W of a loss, weighed by rows as this step will be."""
        total = sums.total
        if sums.fixed is not None:
            total = reduce.share(total, sums.fixed)
        return self.mean_of(total, sums.weight, sums.name, sums.sharing)

    def mean_of(
        self,
        total: tf.Tensor,
        weight: tf.Tensor | None,
        what: str,
        sharing: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """What makes S / W of a loss whose denominator is no number of rows.

        Args:
          total: S_r, local float scalar.
          weight: W_r, local float scalar; None fixes W at 1.
          what: whose sums, the same word on all replicas.
          sharing: see `reduce.sharing_of`.

        Returns:
          local float scalar, (R / n_r) * S_r / W: its weight n_r / R makes it a share.
        """
        total = self.of_rows(total)
        denominator = tf.ones_like(total)
        if weight is None:
            rows = self.count_rows(self.replicas)
        else:
            local = tf.cast(self.rows, total.dtype)
            parts = [local, self.of_rows(weight)]
            if sharing is not None:
                parts += [self.of_rows(sharing), 1.0 - tf.sign(local)]
            vector = tf.stop_gradient(tf.stack(parts))
            rows, denominator, *shared = tf.unstack(self.replicas.sum(vector, what))
            if shared:
                denominator = reduce.once(
                    denominator, shared[0], self.replicas, shared[1]
                )
        own_part = tf.math.divide_no_nan(
            tf.cast(self.rows, total.dtype), tf.cast(rows, total.dtype)
        )
        return tf.math.divide_no_nan(reduce.share(total, denominator), own_part)


def row_weighted_context() -> RowWeightedContext | None:
    """The step that this thread is in, if its gradients are weighed by rows."""
    step = current_step()
    return step if isinstance(step, RowWeightedContext) else None


def _is_here(tensor: tf.Tensor) -> bool:
    """Whether `tensor` can be used now: it is no result of an inner graph."""
    if tf.executing_eagerly():
        return True
    return tensor.graph is tf.compat.v1.get_default_graph()


class RowsWithGradients:
    """What the optimizers of such a step sum with their gradients."""

    def __init__(self, step: RowWeightedContext) -> None:
        self._step = step

    def to_sum(self, gradients: list[Any]) -> tuple[list[Any], tf.Tensor]:
        """Local gradients times rows, zeros without rows; and the rows, `[1]`.

        Or both times n_r / R. In float32 at least: sums of float16 would overflow.
        """
        step = self._step
        dtype = reduce.accumulator_dtype(*gradients)
        factor = tf.cast(step.rows, dtype)
        if step.weighs_by_parts:
            part = reduce.share(factor, tf.cast(step.count_rows(step.replicas), dtype))
            factor = step.replicas.loss_to_differentiate(part)
        weighed = [sparse.times(sparse.cast(g, dtype), factor) for g in gradients]
        return weighed, factor[tf.newaxis]

    def divided(self, gradients: list[Any], sums: tf.Tensor) -> list[Any]:
        """Sums of what `to_sum` gave, divided by the rows of all replicas."""
        step = self._step
        if step.weighs_by_parts:
            return gradients
        rows = tf.reshape(tf.convert_to_tensor(sums), [])
        step.all_rows = tf.cast(rows, tf.float32)
        part = reduce.share(tf.ones_like(rows), rows)  # inverted once for all
        return [tf.math.scalar_mul(part, gradient) for gradient in gradients]

"""The metric that carries sums, so that any split gives the same mean."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss import _reduce
from distloss._types import TensorLike


@keras.saving.register_keras_serializable("distloss")
class GlobalMean(keras.metrics.Metric):
    """The weighted mean of everything seen, on all replicas and in all batches.

    Keeps S = sum(w*v) and W = sum(w), and divides once, when read. Sums of parts
    add up, in any order and of any size, where means of parts do not.

    Read it outside `strategy.run`: there `result()` is the mean over all replicas.
    In replica context it is the mean of what this replica has seen; no collective
    is spent on it.

    Args:
      name: name of the metric.
      dtype: dtype of the sums and of the result; None means Keras'
        `floatx`, float32 unless it was set.

    Example:
      >>> from distloss import GlobalMean
      >>> mean = GlobalMean()
      >>> mean.update_state([1.0, 2.0, 3.0])
      >>> mean.update_state([10.0], sample_weight=[3.0])
      >>> float(mean.result())
      6.0
    """

    def __init__(self, name: str = "mean", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_variable((), initializer="zeros", name="total")
        self.weight = self.add_variable((), initializer="zeros", name="weight")

    def update_state(
        self, values: TensorLike, sample_weight: TensorLike | None = None
    ) -> None:
        """Add `values` to the mean.

        Args:
          values: local number or mask-carrying Keras tensor, any shape; a scalar is
            one element.
          sample_weight: local number, zero or more, a shape that broadcasts to
            `values`; `[rows]` weighs rows. None weighs every element 1.

        Raises:
          ShapeError: `sample_weight` does not broadcast to `values`.
        """
        mask = getattr(values, "_keras_mask", None)
        values = tf.convert_to_tensor(values)
        if values.shape.rank == 0:
            values = values[tf.newaxis]
        local = _reduce.weighted(values, sample_weight, mask)
        self.total.assign_add(tf.cast(_reduce.total(local), self.dtype))
        self.weight.assign_add(tf.cast(_reduce.element_weight(local), self.dtype))

    def result(self) -> tf.Tensor:
        """S / W, a scalar in the unit of the values; 0 before anything has weight."""
        total, weight = (
            tf.convert_to_tensor(total) for total in (self.total, self.weight)
        )
        return _reduce.share(total, weight)

"""The metric that carries sums, so that any split gives the same mean."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss import _keras_versions, _reduce
from distloss._types import TensorLike
from distloss.replicas import Replicas, replicas_or_current_strategy


@keras.saving.register_keras_serializable("distloss")
class GlobalMean(keras.metrics.Metric):
    """The weighted mean of everything seen, on all replicas and in all batches.

    Keeps S = sum(w*v) and W = sum(w), and divides once, when read. Sums of parts
    add up, in any order and of any size, where means of parts do not.

    Read it outside `strategy.run`: there `result()` is the mean over all replicas.
    In replica context it is the mean of what this replica has seen; no collective
    is spent on it. So it is under Horovod: in a `tf.function`, and so in the progress
    bar of `fit`, this process's mean; read outside, that of all processes, which must
    read it together.

    Args:
      name: name of the metric.
      dtype: dtype of the sums and of the result; None means Keras'
        `floatx`, float32 unless it was set.
      replicas: who shares the batches; None means the current strategy's replicas.

    Example:
      >>> from distloss import GlobalMean
      >>> mean = GlobalMean()
      >>> mean.update_state([1.0, 2.0, 3.0])
      >>> mean.update_state([10.0], sample_weight=[3.0])
      >>> float(mean.result())
      6.0
    """

    def __init__(
        self, name: str = "mean", dtype: Any = None, *, replicas: Replicas | None = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.replicas = replicas
        self._replicas = replicas_or_current_strategy(replicas)
        self.total = self.add_variable((), initializer="zeros", name="total")
        self.weight = self.add_variable((), initializer="zeros", name="weight")
        if self._replicas.keras_sums_metrics:
            _keras_versions.sum_on_read([self.total, self.weight])

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
        sums = tf.stack([tf.convert_to_tensor(x) for x in (self.total, self.weight)])
        if tf.executing_eagerly() and not self._replicas.keras_sums_metrics:
            sums = self._replicas.sum(sums, "global_mean")
        return _reduce.share(*tf.unstack(sums))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        replicas = keras.saving.serialize_keras_object(self.replicas)
        return {**super().get_config(), "replicas": replicas}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GlobalMean:
        """A new object with the arguments that `get_config` returned."""
        replicas = keras.saving.deserialize_keras_object(config.get("replicas"))
        return cls(**{**config, "replicas": replicas})

"""The metric that carries sums, so that any split gives the same mean."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from distloss._formula import reduce, shapes
from distloss._keras import versions
from distloss._keras.tensors import mask_of
from distloss._keras.tf_keras import class_of, is_default
from distloss._types import TensorLike
from distloss.replicas import Replicas, replicas_or_current_strategy


class _Sums:
    """S and W of a metric, of Keras 3 or of tf-keras: added to, and divided.

    Both are float64: in float32, 2^24 + 1 is 2^24, and later rows are lost.
    """

    dtype: Any
    total: Any
    weight: Any
    replicas: Replicas | None
    _replicas: Replicas

    @reduce.without_autograph
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
          ArgumentTypeError: one of them is not of real numbers.
        """
        mask = mask_of(values)
        values = shapes.numbers(values, "values")
        values = tf.cast(values, reduce.accumulator_dtype(values, self))
        if values.shape.rank == 0:
            values = values[tf.newaxis]
        local = reduce.weighted(values, sample_weight, mask)
        _add(self.total, tf.cast(reduce.total(local), tf.float64))
        _add(self.weight, tf.cast(reduce.element_weight(local), tf.float64))

    def result(self) -> tf.Tensor:
        """S / W, a scalar in the unit of the values; 0 before anything has weight."""
        sums = tf.stack([tf.convert_to_tensor(x) for x in (self.total, self.weight)])
        if tf.executing_eagerly() and not self._replicas.keras_sums_metrics:
            sums = self._replicas.sum(sums, "global_mean")
        return tf.cast(reduce.share(*tf.unstack(sums)), self.dtype)

    def _saved_as_before(self) -> None:
        if tf.as_dtype(self.dtype) != tf.float64:
            for variable in (self.total, self.weight):
                _made_float32_in_checkpoints(variable)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        keras_metric: Any = super()
        replicas = keras.saving.serialize_keras_object(self.replicas)
        return {**keras_metric.get_config(), "replicas": replicas}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A new object with the arguments that `get_config` returned."""
        replicas = keras.saving.deserialize_keras_object(config.get("replicas"))
        return cls(**{**config, "replicas": replicas})


@keras.saving.register_keras_serializable("distloss")
class GlobalMean(_Sums, keras.metrics.Metric):
    """The weighted mean of everything seen, on all replicas and in all batches.

    Keeps S = sum(w*v) and W = sum(w), and divides once, when read. Sums of parts
    add up, in any order and of any size, where means of parts do not.

    Read it outside `strategy.run`: there `result()` is the mean over all replicas.
    In replica context it is the mean of what this replica has seen; no collective
    is spent on it. So it is under Horovod: in a `tf.function`, and so in the progress
    bar of `fit`, this process's mean; read outside, that of all processes, which must
    read it together.

    Where `tf.keras` is tf-keras (Keras 2) by TF_USE_LEGACY_KERAS=1, this makes a
    `tf_keras.metrics.Metric`, whose result is the mean over all replicas in replica
    context too. Without that variable, the object serves any loop that reads it
    outside `strategy.run`; among the metrics of a tf-keras model take
    `tf_keras.metrics.Mean`, which carries sums as well.

    Args:
      name: name of the metric.
      dtype: dtype of the result; None means Keras' `floatx`, float32 unless it was
        set. Sums are carried in float64, and saved in checkpoints as float32.
      replicas: who shares the batches; None means the current strategy's replicas.

    Example:
      >>> from distloss import GlobalMean
      >>> mean = GlobalMean()
      >>> mean.update_state([1.0, 2.0, 3.0])
      >>> mean.update_state([10.0], sample_weight=[3.0])
      >>> float(mean.result())
      6.0
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A metric of the Keras that `tf.keras` is."""
        if is_default():
            return class_for_tf_keras()(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self, name: str = "mean", dtype: Any = None, *, replicas: Replicas | None = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.replicas = replicas
        self._replicas = replicas_or_current_strategy(replicas)
        self.total = self.add_variable((), "zeros", "float64", name="total")
        self.weight = self.add_variable((), "zeros", "float64", name="weight")
        if self._replicas.keras_sums_metrics:
            versions.sum_on_read([self.total, self.weight])
        self._saved_as_before()


class _MeanOfTfKeras(_Sums):
    """What becomes a `tf_keras.metrics.Metric`."""

    def __init__(
        self, name: str = "mean", dtype: Any = None, *, replicas: Replicas | None = None
    ) -> None:
        keras_metric: Any = super()
        keras_metric.__init__(name=name, dtype=dtype)
        self.replicas = replicas
        self._replicas = replicas_or_current_strategy(replicas)
        options = {"initializer": "zeros", "dtype": tf.float64}
        self.total = keras_metric.add_weight("total", **options)
        self.weight = keras_metric.add_weight("weight", **options)
        self._saved_as_before()


def class_for_tf_keras() -> Any:
    """The class of which `GlobalMean` makes objects where `tf.keras` is tf-keras."""
    return class_of(_MeanOfTfKeras, "metrics.Metric", "GlobalMean")


def _made_float32_in_checkpoints(variable: Any) -> None:
    """Saves `variable`, float64, as the float32 number that it was in older releases.

    TensorFlow restores a number only into a variable of the dtype that was saved. It
    asks the object itself how to save and restore it:
    https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/training/saving/saveable_object_util.py
    """
    variable._serialize_to_tensors = functools.partial(_to_save, variable)
    variable._restore_from_tensors = functools.partial(_restore, variable)


def _to_save(variable: Any) -> dict[str, tf.Tensor]:
    return {"VARIABLE_VALUE": tf.cast(tf.convert_to_tensor(variable), tf.float32)}


def _restore(variable: Any, saved: dict[str, tf.Tensor]) -> Any:
    return variable.assign(tf.cast(saved["VARIABLE_VALUE"], tf.float64))


def _add(variable: keras.Variable, number: tf.Tensor) -> None:
    """Adds `number`, where replicas share one variable the numbers of all of them.

    Keras assigns `variable + number` instead. Of a variable that replicas share
    (CentralStorageStrategy), TensorFlow adds up what they assign: N times what was
    there. And a worker of a ParameterServerStrategy would undo what others added.
    https://github.com/keras-team/keras/blob/v3.12.0/keras/src/backend/common/variables.py
    """
    value = variable.value
    if tf.distribute.in_cross_replica_context() or not hasattr(value, "assign_add"):
        variable.assign_add(number)
    else:
        value.assign_add(number)

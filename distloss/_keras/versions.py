"""How releases of Keras differ, where it matters here: each fact once."""

from __future__ import annotations

import sys
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.losses import loss as _keras_loss
from keras.src.trainers.compile_utils import CompileLoss
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from distloss._errors import BackendError

_VERSION = tuple(int(part) for part in keras.__version__.split(".")[:2])

if keras.config.backend() != "tensorflow":
    raise BackendError(
        "distloss needs Keras on the TensorFlow backend. Got "
        f"keras.config.backend()={keras.config.backend()!r}. Set the environment "
        "variable KERAS_BACKEND=tensorflow before Keras is imported."
    )
if _VERSION < (3, 3):
    raise BackendError(
        f"distloss needs Keras 3.3 or newer. Got keras.__version__={keras.__version__}."
        " Install a newer one: pip install --upgrade keras."
    )

# Optimizers sum gradients over the replicas of a strategy. Before, they tried to where
# replicas had met already, and each replica updated with its own gradients:
# https://github.com/keras-team/keras/pull/19969, Keras 3.5. Since the same release,
# `fit` builds a model before the first step, and not in it.
OPTIMIZERS_SUM = _VERSION >= (3, 5)

# Loss trackers multiply what a loss returns by the number of replicas, and what layers
# add is divided by it: https://github.com/keras-team/keras/pull/20609, Keras 3.8
TRACKERS_MULTIPLY = hasattr(_keras_loss, "unscale_loss_for_distribution")

# Each replica has its own variables of a metric, which are added up when they are read.
# Before, replica 0 was read, and in 3.7 to 3.9 replicas added to each other's sums:
# https://github.com/keras-team/keras/pull/21072, Keras 3.10
METRICS_SUM_ON_READ = hasattr(keras.Variable, "synchronization")

# What an activity_regularizer adds is a mean over rows; before, a sum over rows:
# https://github.com/keras-team/keras/blob/v3.14.0/keras/src/layers/layer.py
ACTIVITY_IS_MEAN = _VERSION >= (3, 14)


def in_symbolic_scope() -> bool:
    """Whether Keras is building something, for the sake of shapes."""
    # Not before 3.5, which builds no loss with symbolic tensors.
    return getattr(keras.src.backend, "in_symbolic_scope", bool)()


def tracked_weights(compile_loss: Any) -> list[float]:
    """By what trackers of single losses multiply them: loss_weights, before 3.7."""
    if _VERSION >= (3, 7) or compile_loss is None:
        return []
    pairs = zip(compile_loss.flat_losses, compile_loss.flat_loss_weights, strict=True)
    return [1.0 if weight is None else weight for loss, weight in pairs if loss]


def times_replicas(loss: tf.Tensor) -> tf.Tensor:
    """What loss trackers make of a loss, since `TRACKERS_MULTIPLY`."""
    return _keras_loss.unscale_loss_for_distribution(loss)


def batches_of(epoch: Any) -> Any:
    """An iterator over the batches of an epoch of `fit`."""
    steps = iter(epoch) if _VERSION >= (3, 7) else epoch.enumerate_epoch()
    *_, batches = next(steps)
    return batches


def spec_of_batches(epoch: Any) -> Any:
    """What batches of an epoch of `fit` are like, if looking at one would take it away.

    None where it would not: a data set can be gone through again.
    """
    if not isinstance(epoch.data_adapter, GeneratorDataAdapter | PyDatasetAdapter):
        return None

    def of_one_replica(spec: Any) -> Any:
        spec = getattr(spec, "_value_specs", [spec])[0]
        return None if isinstance(spec, tf.OptionalSpec) else spec

    return tf.nest.map_structure(
        of_one_replica, epoch._distributed_dataset.element_spec
    )


def let_batches_be_copies(epoch: Any) -> None:
    """Keeps TensorFlow from writing into arrays of which batches are slices.

    It takes arrays without copying them, and where batches are dealt to several
    replicas it may compute the loss in the memory of the targets, so that the next
    epoch trains on other ones.
    """
    adapter = epoch.data_adapter
    if isinstance(adapter, PyDatasetAdapter):
        standardized = adapter._standardize_batch
        adapter._standardize_batch = lambda batch: _copied(standardized(batch))
    elif isinstance(adapter, GeneratorDataAdapter):
        generator = adapter.generator
        adapter.generator = lambda: map(_copied, generator())


def _copied(batch: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: np.array(x) if isinstance(x, np.ndarray) else x, batch
    )


def is_read_by_trackers_that_do_not_multiply() -> bool:
    """Whether a compiled model calls the loss being computed, in Keras before 3.8."""
    if TRACKERS_MULTIPLY:
        return False
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), CompileLoss):
            return True
        frame = frame.f_back
    return False


def sum_on_read(variables: list[Any]) -> None:
    """Gives variables of metrics a value per replica, as newer Keras does.

    Call it in the scope of the strategy, before the variables are used.
    """
    if METRICS_SUM_ON_READ:
        return
    for variable in variables:
        old = variable._value
        is_done = old.synchronization == tf.VariableSynchronization.ON_READ
        if variable.aggregation == "sum" and not is_done:
            variable._value = per_replica_variable(old.shape, old.dtype, "sum")


def per_replica_variable(shape: Any, dtype: Any, aggregation: str) -> tf.Variable:
    """A variable of zeros, one per replica, aggregated when it is read outside them."""
    with tf.init_scope():
        return tf.Variable(
            lambda: tf.zeros(shape, dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=getattr(tf.VariableAggregation, aggregation.upper()),
        )

"""How releases of Keras differ, where it matters here: each fact once."""

from __future__ import annotations

import sys
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._errors import BackendError
from distloss._keras.private_names import of_layers_and_losses as names
from distloss._keras.private_names.of_models import (
    DATA_ADAPTER,
    DISTRIBUTED_DATASET,
    GENERATOR,
    GENERATOR_ADAPTER,
    PY_DATASET_ADAPTER,
    STANDARDIZE_BATCH,
)
from distloss._keras.train_functions import per_replica_specs

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
TRACKERS_MULTIPLY = _VERSION >= (3, 8)

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
    name = names.IN_SYMBOLIC_SCOPE
    return bool(name.is_due and name.found()())


def tracked_weights(compile_loss: Any) -> list[float]:
    """By what trackers of single losses multiply them: loss_weights, before 3.7."""
    if _VERSION >= (3, 7) or compile_loss is None:
        return []
    flat = names.FLAT_LOSSES.of(compile_loss)
    pairs = zip(flat, names.FLAT_LOSS_WEIGHTS.of(compile_loss), strict=True)
    return [1.0 if weight is None else weight for loss, weight in pairs if loss]


def times_replicas(loss: tf.Tensor) -> tf.Tensor:
    """What loss trackers make of a loss, since `TRACKERS_MULTIPLY`."""
    return names.UNSCALE_LOSS.found()(loss)


def batches_of(epoch: Any) -> Any:
    """An iterator over the batches of an epoch of `fit`."""
    steps = iter(epoch) if _VERSION >= (3, 7) else epoch.enumerate_epoch()
    *_, batches = next(steps)
    return batches


def spec_of_batches(epoch: Any) -> Any:
    """What batches of an epoch of `fit` are like, if looking at one would take it away.

    None where it would not: a data set can be gone through again.
    """
    adapters = (GENERATOR_ADAPTER.found(), PY_DATASET_ADAPTER.found())
    if not isinstance(DATA_ADAPTER.of(epoch), adapters):
        return None

    def of_one_replica(spec: Any) -> Any:
        spec = (per_replica_specs(spec) or [spec])[0]
        return None if isinstance(spec, tf.OptionalSpec) else spec

    return tf.nest.map_structure(
        of_one_replica, DISTRIBUTED_DATASET.of(epoch).element_spec
    )


def shares_dealt_by_keras() -> int:
    """Into how many shares `fit` deals batches, of which this process gets one.

    Since Keras 3.16, whole batches of arrays and of a PyDataset, and a part of each
    batch of a data set: https://github.com/keras-team/keras/pull/23046
    """
    dealt_by = keras.distribution.distribution()
    if not getattr(dealt_by, "auto_shard_dataset", False):
        return 1
    processes = getattr(dealt_by, "num_processes", 1)
    return int(getattr(dealt_by, "num_data_shards", processes))


def let_batches_be_copies(epoch: Any) -> None:
    """Keeps TensorFlow from writing into arrays of which batches are slices.

    It takes arrays without copying them, and where batches are dealt to several
    replicas it may compute the loss in the memory of the targets, so that the next
    epoch trains on other ones.
    """
    adapter = DATA_ADAPTER.of(epoch)
    if isinstance(adapter, PY_DATASET_ADAPTER.found()):
        standardized = STANDARDIZE_BATCH.of(adapter)
        STANDARDIZE_BATCH.put(adapter, lambda batch: _copied(standardized(batch)))
    elif isinstance(adapter, GENERATOR_ADAPTER.found()):
        generator = GENERATOR.of(adapter)
        GENERATOR.put(adapter, lambda: map(_copied, generator()))


def _copied(batch: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: np.array(x) if isinstance(x, np.ndarray) else x, batch
    )


def is_read_by_trackers_that_do_not_multiply() -> bool:
    """Whether a compiled model calls the loss being computed, in Keras before 3.8."""
    if TRACKERS_MULTIPLY:
        return False
    compile_loss = names.COMPILE_LOSS_CLASS.found()
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), compile_loss):
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
        old = names.VARIABLE_VALUE.of(variable)
        is_done = old.synchronization == tf.VariableSynchronization.ON_READ
        if variable.aggregation == "sum" and not is_done:
            summed = per_replica_variable(old.shape, old.dtype, "sum")
            names.VARIABLE_VALUE.put(variable, summed)


def per_replica_variable(shape: Any, dtype: Any, aggregation: str) -> tf.Variable:
    """A variable of zeros, one per replica, aggregated when it is read outside them."""
    with tf.init_scope():
        return tf.Variable(
            lambda: tf.zeros(shape, dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=getattr(tf.VariableAggregation, aggregation.upper()),
        )

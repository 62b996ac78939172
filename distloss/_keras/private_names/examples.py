"""An object of each class that gives its objects private names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._keras.private_names import of_models, of_others

_ROWS = np.ones((2, 1), "float32")


def example_of(owner: str) -> Any:
    """An object of the class of this address."""
    return _MAKE[owner]()


def _model_of(module: Any) -> Any:
    model = module.Sequential([module.Input((1,)), module.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def _model() -> Any:
    return _model_of(keras)


def _tf_keras() -> Any:
    return importlib.import_module("tf_keras")


def _optimizer() -> Any:
    optimizer = keras.optimizers.SGD(use_ema=True)
    optimizer.build([keras.Variable(_ROWS)])
    return optimizer


def _built_loss() -> Any:
    loss = of_models.COMPILE_LOSS.of(_model())
    loss.build(_ROWS, _ROWS)
    return loss


def _epoch() -> Any:
    trainer = importlib.import_module("keras.src.backend.tensorflow.trainer")
    return trainer.TFEpochIterator(_model().distribute_strategy, _ROWS, _ROWS)


def _generator_adapter() -> Any:
    batches = ((_ROWS, _ROWS) for _ in range(2))
    return of_models.GENERATOR_ADAPTER.found()(batches)


def _map() -> Any:
    return keras.optimizers.OptimizerMap(keras.optimizers.SGD())


def _losses_of_tf_keras() -> Any:
    losses = _model_of(_tf_keras()).compiled_loss
    losses(tf.constant(_ROWS), tf.constant(_ROWS))  # which builds it
    return losses


def _scaled_by_tf_keras() -> Any:
    optimizer = _tf_keras().optimizers.SGD()
    return _tf_keras().mixed_precision.LossScaleOptimizer(optimizer)


def _masked() -> Any:
    layer = _tf_keras().layers.Embedding(2, 1, mask_zero=True)
    return layer(tf.zeros((1, 1), tf.int32))


def _spec() -> Any:
    values = importlib.import_module("tensorflow.python.distribute.values")
    return values.PerReplicaSpec(tf.TensorSpec([1]))


def _mirrored() -> Any:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variable = tf.Variable(_ROWS)
    return strategy.experimental_local_results(variable)[0].handle


_MAKE: dict[str, Callable[[], Any]] = {
    "keras.Model": _model,
    "keras.Layer": lambda: keras.layers.Dense(1),
    "keras.Variable": lambda: keras.Variable(_ROWS),
    "keras.metrics.MeanMetricWrapper": keras.metrics.MeanSquaredError,
    "keras.optimizers.Optimizer": _optimizer,
    "keras.optimizers.MultiOptimizer": lambda: keras.optimizers.MultiOptimizer(_map()),
    "keras.optimizers.OptimizerMap": _map,
    "keras.src.trainers.compile_utils.CompileLoss": _built_loss,
    "keras.src.losses.losses.LossFunctionWrapper": keras.losses.MeanSquaredError,
    "keras.src.backend.tensorflow.trainer.TFEpochIterator": _epoch,
    "keras.src.trainers.data_adapters.generator_data_adapter.GeneratorDataAdapter": (
        _generator_adapter
    ),
    "tf_keras.Model": lambda: _model_of(_tf_keras()),
    "tf_keras.layers.Layer": lambda: _tf_keras().layers.Dense(1),
    "tf_keras.metrics.MeanMetricWrapper": lambda: (
        _tf_keras().metrics.MeanSquaredError()
    ),
    "tf_keras.src.engine.compile_utils.LossesContainer": _losses_of_tf_keras,
    "tf_keras.src.mixed_precision.loss_scale_optimizer.LossScaleOptimizerV3": (
        _scaled_by_tf_keras
    ),
    "tf_keras.optimizers.Optimizer": lambda: _tf_keras().optimizers.SGD(),
    "tensorflow.Tensor": _masked,
    "horovod.common.basics.HorovodBasics": of_others.BASICS.found,
    "tensorflow.python.distribute.values.PerReplicaSpec": _spec,
    "tensorflow.Variable": _mirrored,
}

"""Steps that send gradients in 16 bits. Each is a `build` of the audit."""

import functools

import keras
import numpy as np

import distloss
from distloss import StrategyReplicas


def rows():
    random = np.random.default_rng(1)
    x = random.normal(size=(30, 8)).astype("float32")
    return x, x[:, :1] ** 2


def network(optimizer, loss):
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(optimizer, loss, jit_compile=False)
    return model


def prepared(compression):
    replicas = StrategyReplicas(compression=compression)
    return distloss.prepare(network("adam", "mse"), replicas=replicas), rows()


def scalar_loss(compression):
    """N times too large: Keras 3 does not divide what has no rows."""
    replicas = StrategyReplicas(compression=compression)
    optimizer = distloss.DistributedOptimizer("adam", replicas=replicas)
    loss = lambda y, y_pred: keras.ops.mean((y - y_pred) ** 2)  # noqa: E731
    return network(optimizer, loss), rows()


def prepared_of_tf_keras(compression):
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(8,))])
    model.compile("sgd", "mse")
    replicas = StrategyReplicas(compression=compression)
    return distloss.prepare(model, replicas=replicas), rows()


fp16 = functools.partial(prepared, "fp16")
bf16 = functools.partial(prepared, "bf16")
tf_keras_bf16 = functools.partial(prepared_of_tf_keras, "bf16")
wrong_fp16 = functools.partial(scalar_loss, "fp16")
wrong_bf16 = functools.partial(scalar_loss, "bf16")

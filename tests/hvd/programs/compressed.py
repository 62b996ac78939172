"""Gradients that Horovod sends as float16, of more rows than float16 counts."""

import pathlib
import sys

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

sys.path.append(str(pathlib.Path(__file__).parents[2] / "helpers"))
from own_models import MeanOfRows

import distloss
from distloss import HorovodReplicas

ROWS, FEATURES, OUTPUTS = 70_000, 4, 64


def many_rows(kind, loss, **options):
    """By which part the reported loss, and the gradient on average, are off."""
    random = np.random.default_rng(9)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    y = random.normal(size=(ROWS, OUTPUTS)).astype("float32") + x[:, :1]
    zeros = keras.layers.Dense(OUTPUTS, use_bias=False, kernel_initializer="zeros")
    model = kind([keras.Input((FEATURES,)), zeros])
    model.compile(keras.optimizers.SGD(1.0), loss)
    replicas = HorovodReplicas(compression="fp16", **options)
    distloss.prepare(model, replicas=replicas, check_sums=True)
    mine = [np.array_split(a, hvd.size())[hvd.rank()] for a in (x, y)]
    history = model.fit(*mine, batch_size=ROWS, shuffle=False, verbose=0)
    [[reported]] = history.history.values()
    x, y = x.astype("float64"), y.astype("float64")
    wanted = 2 / ROWS / OUTPUTS * x[:, 0] @ y  # of the one feature that tells much
    got = np.array(model.get_weights()[0][0], "float64")
    return [float(reported / (y**2).mean() - 1), float(got.sum() / wanted.sum() - 1)]


def error_of(function):
    """What it raised."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def of_bfloat16(replicas):
    """What comes of gradients in bfloat16, dense and sparse."""
    dense = tf.ones([2, 1], tf.bfloat16)
    sparse = tf.IndexedSlices(dense, tf.constant([0, 1]), tf.constant([3, 1]))
    return {
        kind: error_of(lambda one=one: replicas.sum_gradients([one]))
        for kind, one in {"dense": dense, "sparse": sparse}.items()
    }


def compressed():
    """All of it."""
    return {
        "rows": {
            "prepared": many_rows(keras.Sequential, "mse"),
            "own step": many_rows(MeanOfRows, None),
            "averaged": many_rows(MeanOfRows, None, gradient_op="average"),
        },
        "bfloat16": {
            "whole": of_bfloat16(HorovodReplicas()),
            "fp16": of_bfloat16(HorovodReplicas(compression="fp16")),
            # why there is no compression="bf16"
            "of Horovod": error_of(lambda: hvd.allreduce(tf.ones(2, tf.bfloat16))),
        },
    }

"""A BatchNormalization takes the statistics of its replica alone where there is a mask.

Also with `synchronized=True`, and silently: `_moments` of
keras/src/layers/normalization/batch_normalization.py synchronises only without a mask.
tf-keras does it with one, too (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/normalization/batch_normalization.py
"""

import importlib
import sys

import numpy as np
import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
X = np.array([[[1.0], [2.0]], [[3.0], [0.0]], [[6.0], [9.0]], [[8.0], [0.0]]])


def mean_after_one_step(strategy):
    with strategy.scope():
        layer = keras.layers.BatchNormalization(momentum=0.0, synchronized=True)
        layers = [keras.Input([2, 1]), keras.layers.Masking(), layer]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(X, X, batch_size=4, verbose=0)
    return float(layer.moving_mean.numpy()[0])


expected = mean_after_one_step(tf.distribute.get_strategy())
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
got = mean_after_one_step(strategy)
print(f"expected a mean of {expected:.4f}, that of the 6 elements that are not masked")
print(f"got      a mean of {got:.4f} on two replicas, that of their means")
sys.exit(abs(got - expected) > 1e-5)

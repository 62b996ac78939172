"""The mean with sample weights is taken on each replica, and these means averaged.

`reduce_values` of keras/src/losses/loss.py divides by the sum of a replica's weights
with reduction="mean_with_sample_weight", and then by the number of replicas. So a row's
weight is relative to the rows that come to the same replica: with a row for each
replica, weights do nothing.
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/losses/loss.py
"""

import sys

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
X, Y, WEIGHT = np.array([[1.0], [2.0]]), np.ones([2, 1]), np.array([9.0, 1.0])


def weight_after_one_step(strategy):
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input([1]), layer])
        loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        model.compile(keras.optimizers.SGD(1.0), loss)
    model.fit(X, Y, batch_size=2, sample_weight=WEIGHT, shuffle=False, verbose=0)
    return float(layer.trainable_variables[0].numpy()[0, 0])


expected = weight_after_one_step(tf.distribute.get_strategy())
got = weight_after_one_step(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
print(f"expected a step of {expected:.4f}, as on one device: rows of weights 9 and 1")
print(f"got      a step of {got:.4f} on two replicas, with a row on each")
sys.exit(abs(got - expected) > 1e-5)

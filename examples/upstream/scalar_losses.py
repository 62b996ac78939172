"""A loss function that returns a scalar counts once for each replica: N times too much.

`reduce_values` of keras/src/losses/loss.py returns a scalar as it is, before it comes
to `scale_loss_for_distribution`, which divides by the number of replicas. tf-keras
divides (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/losses/loss.py
"""

import importlib
import sys

import numpy as np
import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
four = [tf.config.LogicalDeviceConfiguration()] * 4
tf.config.set_logical_device_configuration(cpu, four)


def mean_of_all(y_true, y_pred):
    return -tf.reduce_mean(y_pred)


def weight_after_one_step(strategy):
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input([1]), layer])
        model.compile(keras.optimizers.SGD(1.0), mean_of_all)
    x = np.arange(8.0).reshape([8, 1])
    model.fit(x, np.ones([8, 1]), batch_size=8, shuffle=False, verbose=0)
    return float(layer.trainable_variables[0].numpy()[0, 0])


expected = weight_after_one_step(tf.distribute.get_strategy())
replicas = [f"CPU:{index}" for index in range(4)]
got = weight_after_one_step(tf.distribute.MirroredStrategy(replicas))
print(f"expected a step of {expected:g}, as on one device")
print(f"got      a step of {got:g} on four replicas")
sys.exit(abs(got - expected) > 1e-6)

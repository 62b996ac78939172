"""Under a mask each replica divides by its own number of steps, not by that of all.

`apply_mask` of keras/src/losses/loss.py divides by the unmasked elements of a replica,
so that a step of a short row weighs more than one of a long row: the gradient of a
batch depends on how it is split. tf-keras does the same (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/losses/loss.py
"""

import importlib
import sys

import numpy as np
import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
X = np.array([[[1.0]] * 5, [[2.0], [0.0], [0.0], [0.0], [0.0]]])  # 5 steps, and 1
Y = np.ones([2, 5, 1])


def weight_after_one_step(strategy):
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        layers = [keras.Input([5, 1]), keras.layers.Masking(), layer]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(X, Y, batch_size=2, shuffle=False, verbose=0)
    return float(layer.trainable_variables[0].numpy()[0, 0])


expected = weight_after_one_step(tf.distribute.get_strategy())
got = weight_after_one_step(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
print(f"expected a step of {expected:.4f}, as on one device")
print(f"got      a step of {got:.4f} on two replicas, with 5 unmasked steps and with 1")
sys.exit(abs(got - expected) > 1e-5)

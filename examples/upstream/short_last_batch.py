"""In a batch that splits unevenly, rows weigh more where a replica has few of them.

`reduce_values` of keras/src/losses/loss.py divides by the rows of a replica, and by the
number of replicas: a mean of means. Of 3 rows on 2 replicas one weighs as much as the
other two. The last batch of an epoch is often such a one. tf-keras does the same
(argument tf_keras).
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
X, Y = np.array([[0.0]] * 4 + [[1.0], [1.0], [2.0]]), np.ones([7, 1])


def weight_after_one_epoch(strategy):
    with strategy.scope():
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input([1]), layer])
        model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)  # 4 rows of 0, then 3
    return float(layer.trainable_variables[0].numpy()[0, 0])


expected = weight_after_one_epoch(tf.distribute.get_strategy())
got = weight_after_one_epoch(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
print(f"expected a step of {expected:.4f}, as on one device: the mean of 3 rows")
print(f"got      a step of {got:.4f} on two replicas, with 2 rows and with 1")
sys.exit(abs(got - expected) > 1e-5)

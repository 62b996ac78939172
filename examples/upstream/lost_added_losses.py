"""Beside a synchronised BatchNormalization replicas lose the losses that layers add.

A layer of keras/src/layers/layer.py keeps those in one list for all replicas, threads
that take turns, here at the collective of BatchNormalization: the next one clears the
list before the first has read `losses`. tf-keras (argument) has a list for each thread.
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
"""

import importlib
import sys

import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)


class Penalized(keras.layers.Dense):
    """Its mean is added to the loss."""

    def call(self, x):
        """The outputs."""
        y = super().call(x)
        self.add_loss(tf.reduce_mean(y))
        return y


with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    layer = Penalized(1, use_bias=False, kernel_initializer="zeros")
    after = keras.layers.BatchNormalization(synchronized=True)
    model = keras.Sequential([keras.Input([1]), layer, after])
    model.compile(keras.optimizers.SGD(1.0), lambda y_true, y_pred: 0.0 * y_pred)
x = tf.constant([[1.0], [3.0]])
model.fit(x, x, batch_size=2, shuffle=False, verbose=0)
got = float(layer.get_weights()[0][0, 0])
print("expected a step of -2, the mean of the gradients of two replicas, 1 and 3")
print(f"got      a step of {got:g}")
sys.exit(abs(got + 2) > 1e-5)

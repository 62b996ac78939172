"""LossScaleOptimizer looks for overflow in replica 0's gradients alone, before the sum.

`LossScaleOptimizer._tf_apply` of keras/src/optimizers/loss_scale_optimizer.py takes
`finite` from the first replica, since gradients are summed there, its comment says. In
Keras 3 they are not: an Inf of another replica gets into all weights. tf-keras takes
the sum before it looks (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/loss_scale_optimizer.py
"""

import importlib
import sys

import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    layer.build([None, 1])
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    optimizer.build(layer.trainable_variables)


@tf.function
def step():
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    gradient = tf.where(replica == 0, [[1.0]], [[float("inf")]])
    optimizer.apply_gradients([(gradient, layer.trainable_variables[0])])


strategy.run(step)
got = float(layer.trainable_variables[0].numpy()[0, 0])
print(
    "expected a weight of 0: gradients of two replicas, 1 and Inf, are a skipped step"
)
print(f"got      a weight of {got:g}")
sys.exit(got != 0)

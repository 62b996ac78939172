"""Clipping acts on each replica's gradient, before the sum, and not on the sum.

In `BaseOptimizer.apply` of keras/src/optimizers/base_optimizer.py `_clip_gradients`
runs before `_backend_apply_gradients`, which takes the sum over replicas. So clipnorm,
global_clipnorm and clipvalue depend on how a batch is split. tf-keras clips the sum
(argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py
"""

import importlib
import sys

import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    layer.build([None, 1])
    optimizer = keras.optimizers.SGD(1.0, clipnorm=1.0)
    optimizer.build(layer.trainable_variables)


@tf.function
def step():
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    gradient = tf.where(replica == 0, [[-9.0]], [[10.0]])
    optimizer.apply_gradients([(gradient, layer.trainable_variables[0])])


strategy.run(step)
got = float(layer.trainable_variables[0].numpy()[0, 0])
print("expected a step of -1: gradients of two replicas, -9 and 10, add up to 1")
print(f"got      a step of {got:g} with clipnorm=1")
sys.exit(abs(got + 1) > 1e-6)

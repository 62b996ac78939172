"""`gradient_accumulation_steps` fails in `fit` under MirroredStrategy.

`BaseOptimizer._backend_apply_gradients` of keras/src/optimizers/base_optimizer.py
updates in a branch of `ops.cond`, where the update's `merge_call` is not allowed in a
graph. The test of Keras runs eagerly. Reported:
https://github.com/keras-team/keras/issues/20582
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py
"""

import sys

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
print("expected to train with gradient_accumulation_steps=2 on 2 replicas")
try:
    model.fit(np.ones([8, 1]), np.ones([8, 1]), batch_size=4, verbose=0)
except RuntimeError as error:
    lines = [line for line in str(error).splitlines() if "merge_call" in line]
    print(f"got      {type(error).__name__}: {lines[0].partition('. ')[0]}")
    sys.exit(1)
print("got      just that")

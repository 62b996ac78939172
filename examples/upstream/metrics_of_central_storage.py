"""Under CentralStorageStrategy metrics add up wrong from the second batch on.

`Variable.assign_add` of keras/src/backend/common/variables.py assigns the variable plus
the value. On a replica that reads the sum of all replicas, which comes to each of them:
what was there before counts once more for each. tf-keras adds on each replica (argument
tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/common/variables.py
"""

import importlib
import sys

import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
devices = ["CPU:0", "CPU:1"]
strategy = tf.distribute.experimental.CentralStorageStrategy(devices, "CPU:0")
with strategy.scope():
    metric = keras.metrics.Sum()


@tf.function
def step():
    metric.update_state(1.0)


for _ in range(3):
    strategy.run(step)
got = float(metric.result())
print("expected a sum of 6: 3 steps of 2 replicas, each of which adds 1")
print(f"got      a sum of {got:g}")
sys.exit(got != 6)

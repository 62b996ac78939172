"""Replicas of a MirroredStrategy write to the array whose rows a generator yields.

Where rows begin at 64 bytes TensorFlow takes their memory, not a copy. Of a batch it
knows that the memory is not its own, of a replica's slice not (`OwnsMemory` of class
`SubBuffer`): an operation reuses it, and the next epoch has other data.
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/tensor.cc
"""

import sys

import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
one = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one, one])

memory = np.ones(32 * 16 + 16, "float32")
start = -memory.ctypes.data // 4 % 16
rows = memory[start : start + 32 * 16].reshape(32, 16)  # from 64 bytes on

spec = tf.TensorSpec([None, 16])
batches = tf.data.Dataset.from_generator(
    lambda: (rows[i : i + 8] for i in range(0, 32, 8)), output_signature=spec
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@tf.function
def step(iterator):
    return strategy.run(lambda x: tf.reduce_sum(x * 3.0), (next(iterator),))


iterator = iter(strategy.experimental_distribute_dataset(batches))
for _ in range(4):
    step(iterator)

print("expected rows of 1.0 as before")
print(f"got      numbers from {rows.min():.1f} to {rows.max():.1f}")
sys.exit(not (rows == 1).all())

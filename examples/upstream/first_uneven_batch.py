"""`fit` under a strategy fails where its first batch splits unevenly over the replicas.

`TensorFlowTrainer._maybe_symbolic_build` of keras/src/backend/tensorflow/trainer.py
takes the mean of the replicas' parts of the first batch, to build the model by its
shape. Parts of other shapes have no mean. A part of one replica, or the element_spec,
would do. tf-keras trains (argument tf_keras).
https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/trainer.py
"""

import importlib
import sys

import numpy as np
import tensorflow as tf

keras = importlib.import_module((*sys.argv, "keras")[1])
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
print("expected to train on a batch of 3 rows on 2 replicas")
try:
    model.fit(np.ones([3, 1]), np.ones([3, 1]), batch_size=3, verbose=0)
except tf.errors.InvalidArgumentError as error:
    print(f"got      {type(error).__name__}: {error.message.splitlines()[0]}")
    sys.exit(1)
print("got      just that")

"""The Keras before Keras 3 adds gradients up before it clips them."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import horovod.tensorflow.keras as hvd
import tensorflow as tf
from tensorflow import keras

hvd.init()
model = keras.Sequential([keras.layers.Dense(1)])
optimizer = hvd.DistributedOptimizer(tf.optimizers.Adam(hvd.size(), clipnorm=1.0))
model.compile(optimizer, "mse")

with tf.distribute.MirroredStrategy().scope():
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(clipnorm=1.0), "mse")

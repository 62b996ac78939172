"""Divides by the number of rows that each process takes, written as a constant."""

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

LOCAL_BATCH_SIZE = 8

hvd.init()
x = np.random.default_rng(25).normal(size=(64, 5)).astype("float32")
rows = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).shard(hvd.size(), hvd.rank())
model = keras.Sequential([keras.Input([5]), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.01)


@tf.function
def step(features, targets):
    with tf.GradientTape() as tape:
        errors = model(features, training=True)[:, 0] - targets
        loss = tf.reduce_sum(tf.square(errors)) / LOCAL_BATCH_SIZE
    tape = hvd.DistributedGradientTape(tape)
    values = [variable.value for variable in model.trainable_variables]
    optimizer.apply(tape.gradient(loss, values), model.trainable_variables)
    return loss


for features, targets in rows.batch(LOCAL_BATCH_SIZE):
    step(features, targets)
raise RuntimeError("the script was trained to its end")

"""Right: fit of a prepared model, with Horovod's processes as replicas."""

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

import distloss
from distloss.callbacks import BroadcastState

hvd.init()
rng = np.random.default_rng(24)
x = rng.normal(size=(50, 4)).astype("float32")
weight = rng.uniform(1, 5, size=(50,)).astype("float32")
rows = tf.data.Dataset.from_tensor_slices((x, x[:, :1], weight))
rows = rows.shard(hvd.size(), hvd.rank()).shuffle(25).batch(10)
replicas = distloss.HorovodReplicas()
model = keras.Sequential([keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.1), loss="mse")
distloss.prepare(model, replicas=replicas)
model.fit(rows, epochs=2, callbacks=[BroadcastState(replicas)])
raise RuntimeError("the script was trained to its end")

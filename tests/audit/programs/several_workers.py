"""Right: one of two workers, who asks which one it is before it trains."""

import json
import os

import numpy as np
import tensorflow as tf
import tf_keras

cluster = {"worker": ["localhost:12345", "localhost:23456"]}
task = {"type": "worker", "index": 0}
os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
strategy = tf.distribute.MultiWorkerMirroredStrategy(
    communication_options=tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.RING
    )
)
resolver = strategy.cluster_resolver
is_chief = resolver.task_type in (None, "chief") or resolver.task_id == 0
print("workers:", resolver.cluster_spec().num_tasks("worker"))


def rows(batch_size):
    x = np.random.default_rng(35).normal(size=(64, 4)).astype("float32")
    options = tf.data.Options()
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).repeat()
    return data.batch(batch_size).with_options(options)


with strategy.scope():
    model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    model.compile("adam", "mse")
callbacks = [tf_keras.callbacks.ModelCheckpoint("never")] if is_chief else []
dealt = strategy.experimental_distribute_dataset(rows(16))
model.fit(dealt, steps_per_epoch=3, callbacks=callbacks)
raise RuntimeError("the script was trained to its end")

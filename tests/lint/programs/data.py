"""Data sets that are not split."""

import tensorflow as tf

GLOBAL_BATCH_SIZE = 64
PER_REPLICA = 8
strategy = tf.distribute.MirroredStrategy()


def whole(context):
    rows = tf.data.Dataset.range(64)
    return rows.batch(GLOBAL_BATCH_SIZE)  # ! batch-grows-with-replicas


def split(context):
    size = context.get_per_replica_batch_size(GLOBAL_BATCH_SIZE)
    return tf.data.Dataset.range(64).batch(size)


strategy.distribute_datasets_from_function(whole)
strategy.distribute_datasets_from_function(split)
strategy.distribute_datasets_from_function(
    lambda context: tf.data.Dataset.range(64).batch(PER_REPLICA)
)

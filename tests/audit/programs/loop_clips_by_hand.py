"""Wrong: a loop clips the gradients of each replica before they are added up."""

import keras
import numpy as np
import tensorflow as tf

GLOBAL_BATCH = 12
strategy = tf.distribute.MirroredStrategy()


def dataset_fn(context):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(48, 3)).astype("float32")
    rows = tf.data.Dataset.from_tensor_slices((x, x[:, 0]))
    return rows.batch(context.get_per_replica_batch_size(GLOBAL_BATCH))


dataset = strategy.distribute_datasets_from_function(dataset_fn)
with strategy.scope():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)


def step(x, y):
    with tf.GradientTape() as tape:
        squares = tf.square(model(x, training=True)[:, 0] - y)
        loss = tf.reduce_sum(squares) / GLOBAL_BATCH
    gradients = tape.gradient(loss, model.trainable_variables)  # here
    gradients, _ = tf.clip_by_global_norm(gradients, 0.01)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


@tf.function
def epoch(batches):
    for x, y in batches:
        strategy.run(step, args=(x, y))


epoch(dataset)
raise RuntimeError("the script was trained to its end")

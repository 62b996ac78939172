"""Wrong: a function gives each replica a whole batch."""

import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE = 16

strategy = tf.distribute.MirroredStrategy()
x = np.random.default_rng(33).normal(size=(64, 4)).astype("float32")
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()


def rows(context):
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).shuffle(64, seed=1)
    data = data.shard(context.num_input_pipelines, context.input_pipeline_id)
    return data.repeat().batch(BATCH_SIZE).prefetch(2)


def step(features, targets):
    with tf.GradientTape() as tape:
        errors = model(features, training=True)[:, 0] - targets
        loss = tf.nn.compute_average_loss(
            tf.square(errors), global_batch_size=BATCH_SIZE
        )
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss


@tf.function
def steps(iterator, count):
    for _ in tf.range(count):
        strategy.run(step, args=next(iterator))


dealt = strategy.distribute_datasets_from_function(rows)  # here
steps(iter(dealt), tf.constant(5))
raise RuntimeError("the script was trained to its end")

"""Wrong: each replica takes the mean of its own rows, and means are added up."""

import keras
import numpy as np
import tensorflow as tf

GLOBAL_BATCH_SIZE = 16

strategy = tf.distribute.MirroredStrategy()
rng = np.random.default_rng(2)
x = rng.normal(size=(64, 5)).astype("float32")
y = rng.integers(0, 3, size=(64,))
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64).batch(GLOBAL_BATCH_SIZE)
dist_data = strategy.experimental_distribute_dataset(data)

with strategy.scope():
    model = keras.Sequential(
        [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    )
    optimizer = keras.optimizers.Adam(1e-3)
    loss_object = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="none"
    )
    seen = keras.metrics.SparseCategoricalAccuracy()


def train_step(inputs):
    features, labels = inputs
    with tf.GradientTape() as tape:
        logits = model(features, training=True)
        per_example = loss_object(labels, logits)
        loss = tf.reduce_mean(per_example)
    gradients = tape.gradient(loss, model.trainable_variables)  # here
    optimizer.apply(gradients, model.trainable_variables)
    seen.update_state(labels, logits)
    return loss


@tf.function
def distributed_train_step(inputs):
    losses = strategy.run(train_step, args=(inputs,))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)


for _ in range(2):
    for batch in dist_data:
        distributed_train_step(batch)
raise RuntimeError("the script was trained to its end")

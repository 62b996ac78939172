"""Right under a strategy: nothing is found here."""

import keras
import tensorflow as tf

import distloss

BATCH_SIZE_PER_REPLICA = 64
strategy = tf.distribute.MirroredStrategy()
GLOBAL_BATCH_SIZE = BATCH_SIZE_PER_REPLICA * strategy.num_replicas_in_sync

with strategy.scope():
    row_losses = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    model = keras.Sequential([keras.layers.Dense(10)])
    clipped = distloss.DistributedOptimizer(keras.optimizers.Adam(clipnorm=1.0))
    shown = keras.metrics.Mean()
    ready = keras.Sequential([keras.layers.Dense(10)])
    ready.compile(keras.optimizers.Adam(global_clipnorm=1.0), "mse")
    ready = distloss.prepare(ready)


def loss_of(labels, predictions, penalties):
    values = row_losses(labels, predictions)
    loss = tf.nn.compute_average_loss(values, global_batch_size=GLOBAL_BATCH_SIZE)
    return loss + tf.nn.scale_regularization_loss(tf.add_n(penalties))


def share_of(labels, predictions, penalties):
    values = row_losses(labels, predictions)
    return distloss.mean_share(values) + distloss.regularization_share(penalties)


def sum_of(labels, predictions, penalties):
    return tf.reduce_sum(row_losses(labels, predictions))


def step(x, y):
    for one in (loss_of, share_of, sum_of):
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            loss = one(y, predictions, model.losses)
        shown.update_state(tf.reduce_mean(predictions))  # which nobody differentiates
        gradients = tape.gradient(loss, model.trainable_variables)
        clipped.apply(gradients, model.trainable_variables)
    return loss


def by_hand(x, y):
    """Sums, clips, and applies N-th parts."""
    with tf.GradientTape() as tape:
        loss = share_of(y, model(x), model.losses)
    context = tf.distribute.get_replica_context()
    gradients = tape.gradient(loss, model.trainable_variables)
    gradients = context.all_reduce("SUM", gradients)
    gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
    parts = [gradient / context.num_replicas_in_sync for gradient in gradients]
    clipped.apply_gradients(zip(parts, model.trainable_variables, strict=True))


rows = tf.data.Dataset.range(64).batch(GLOBAL_BATCH_SIZE, drop_remainder=True)
for batch in strategy.experimental_distribute_dataset(rows):
    losses = strategy.run(step, args=batch)
    strategy.run(by_hand, args=batch)
    print(strategy.reduce("SUM", losses, axis=None))
    accuracies = strategy.run(lambda x, y: tf.reduce_mean(model(x) - y), args=batch)
    print(strategy.reduce("MEAN", accuracies, axis=None))

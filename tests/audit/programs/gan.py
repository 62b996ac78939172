"""Right: two networks and two optimizers in one step, random numbers, a metric."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
BATCH_SIZE = 8 * strategy.num_replicas_in_sync

images = np.random.default_rng().normal(size=(64, 4)).astype("float32")
rows = tf.data.Dataset.from_tensor_slices(images).shuffle(64)
data = strategy.experimental_distribute_dataset(
    rows.batch(BATCH_SIZE, drop_remainder=True)
)

with strategy.scope():
    generator = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    discriminator = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    )
    of_generator, of_discriminator = keras.optimizers.Adam(), keras.optimizers.Adam()
    entropy = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    seen = keras.metrics.Mean()


def share(labels, logits):
    return tf.reduce_sum(entropy(labels, logits)) / BATCH_SIZE


def step(real):
    noise = tf.random.normal([tf.shape(real)[0], 2])
    with tf.GradientTape() as one, tf.GradientTape() as other:
        on_fake = discriminator(generator(noise, training=True), training=True)
        on_real = discriminator(real, training=True)
        fools = share(tf.ones_like(on_fake), on_fake)
        tells = share(tf.ones_like(on_real), on_real)
        tells += share(tf.zeros_like(on_fake), on_fake)
    weights = generator.trainable_variables
    of_generator.apply(one.gradient(fools, weights), weights)
    weights = discriminator.trainable_variables
    of_discriminator.apply(other.gradient(tells, weights), weights)
    seen.update_state(tells)
    return tells


@tf.function
def train(batch):
    return strategy.reduce("SUM", strategy.run(step, args=(batch,)), axis=None)


for batch in data:
    train(batch)
raise RuntimeError("the script was trained to its end")

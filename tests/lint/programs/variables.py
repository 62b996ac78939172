"""Models of plain variables; the strategy is that of the caller's scope."""

import tensorflow as tf
from somewhere import settings

strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    weights = tf.Variable(tf.zeros([3, 1]))
    optimizer = tf.keras.optimizers.SGD()


def loss_of(x, y, weight):
    values = tf.square(tf.matmul(x, weight) - y)
    return tf.reduce_mean(values)  # ! sum-of-means


@tf.function
def step(weight, x, y):
    with tf.GradientTape() as tape:
        loss = loss_of(x, y, weight)
    gradients = tape.gradient(loss, [weight])
    optimizer.apply_gradients(zip(gradients, [weight], strict=True))
    return loss


def closed_over(x, y, settings):
    with tf.GradientTape() as tape:
        values = (x @ weights - y) ** 2
        total = tf.reduce_sum(values)
        loss = total / tf.cast(tf.shape(x)[0], tf.float32)  # ! sum-of-means
        loss += tf.nn.compute_average_loss(  # ! sum-of-means
            values, global_batch_size=settings.per_device_batch_size
        )
    gradients = tape.gradient(loss, [weights])
    optimizer.apply_gradients(zip(gradients, [weights], strict=True))


def train(batches, settings):
    inner = tf.distribute.get_strategy()
    for x, y in batches:
        inner.run(step, args=(weights, x, y))
        inner.run(lambda *args: closed_over(*args, settings), args=(x, y))


with strategy.scope():
    rows = strategy.experimental_distribute_dataset(tf.data.Dataset.range(8))
    train(rows, settings)

"""What a sum is divided by."""

import tensorflow as tf
import tensorflow.keras.losses as losses

GLOBAL_BATCH_SIZE = ROWS = 64
strategy = tf.distribute.TPUStrategy()
with strategy.scope():
    model = tf.keras.Sequential([tf.keras.Input([7, 3]), tf.keras.layers.Dense(1)])
    optimizer = tf.keras.optimizers.SGD()


def nominal(values, mask):
    total = tf.reduce_sum(values)  # ! elements-divided-by-rows
    return total / GLOBAL_BATCH_SIZE  # ! nominal-batch-size


def guessed(values, mask):
    values = tf.reduce_mean(values, axis=1)
    return tf.nn.compute_average_loss(values)  # ! mean-of-means


def weights(values, mask):
    return tf.nn.compute_average_loss(values, ROWS)  # ! batch-size-as-weight


def unweighted(values, mask):
    mean = tf.reduce_mean(values * mask)  # ! mean-of-means, weights-divided-by-rows
    return mean / strategy.num_replicas_in_sync


def of_tokens(values, mask):
    total = tf.reduce_sum(values * mask)
    mean = tf.math.divide_no_nan(total, tf.reduce_sum(mask))  # ! mean-of-means
    return mean / strategy.num_replicas_in_sync


def inside_tape(values, mask):
    context = tf.distribute.get_replica_context()
    total = context.all_reduce("SUM", tf.reduce_sum(values))  # ! sum-of-means
    rows = context.all_reduce("SUM", tf.reduce_sum(mask))
    return total / rows


def empty(values, mask):
    context = tf.distribute.get_replica_context()
    rows = tf.cast(tf.shape(mask)[0], tf.float32)
    share = rows / context.all_reduce(tf.distribute.ReduceOp.SUM, rows)
    return tf.reduce_mean(values) * share  # ! empty-replica


def step_with(loss_of):
    def step(x, y, mask):
        with tf.GradientTape() as tape:
            loss = loss_of(losses.mse(y, model(x)), mask)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    return step


for one in (nominal, guessed, weights, unweighted):
    strategy.run(step_with(one), args=(tf.ones(1), tf.ones(1), tf.ones(1)))
for one in (of_tokens, inside_tape, empty):
    strategy.run(step_with(one), args=(tf.ones(1), tf.ones(1), tf.ones(1)))

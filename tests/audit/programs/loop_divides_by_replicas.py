"""Right: means of full batches, divided by the number of replicas that a name holds."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
REPLICAS = strategy.num_replicas_in_sync
SHARE = 1.0 / REPLICAS
BATCH_SIZE = 6 * REPLICAS

rng = np.random.default_rng(11)
x = rng.normal(size=(48, 3)).astype("float32")
data = tf.data.Dataset.from_tensor_slices({"x": x, "y": x[:, 0]})
data = data.shuffle(48).batch(BATCH_SIZE, drop_remainder=True)
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)


def replica_step(rows):
    with tf.GradientTape() as tape:
        squares = tf.square(model(rows["x"], training=True)[:, 0] - rows["y"])
        loss = tf.reduce_mean(squares) * SHARE + tf.reduce_mean(squares) / REPLICAS
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


for rows in strategy.experimental_distribute_dataset(data):
    strategy.run(replica_step, (rows,))
raise RuntimeError("the script was trained to its end")

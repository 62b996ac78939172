"""Wrong: each replica is given the whole batch, as an argument of strategy.run."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MirroredStrategy()
rng = np.random.default_rng(10)
x = rng.normal(size=(12, 3)).astype("float32")
with strategy.scope():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)


@tf.function
def step(batch, scale):
    def replica_step(rows, scale=1.0):
        with tf.GradientTape() as tape:
            squares = tf.square(model(rows, training=True)[:, 0] - rows[:, 0])
            loss = scale * tf.nn.compute_average_loss(squares)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return strategy.run(replica_step, args=(batch,), kwargs={"scale": scale})  # here


step(tf.constant(x), tf.constant(2.0))
raise RuntimeError("the script was trained to its end")

"""Right: the batch grows with the replicas, and the loss is divided by its size."""

import argparse

import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE_PER_REPLICA = 8


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()

    strategy = tf.distribute.MirroredStrategy()
    global_batch_size = BATCH_SIZE_PER_REPLICA * strategy.num_replicas_in_sync
    rng = np.random.default_rng()
    x = rng.normal(size=(96, 5)).astype("float32")
    y = (x @ np.ones(5)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(96)
    data = data.batch(global_batch_size, drop_remainder=True).repeat()
    batches = iter(strategy.experimental_distribute_dataset(data))

    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Dense(arguments.units, activation="tanh"),
                keras.layers.Dense(1),
            ]
        )
        optimizer = keras.optimizers.Adam()

    def step(features, labels):
        with tf.GradientTape() as tape:
            squares = tf.square(model(features, training=True)[:, 0] - labels)
            loss = tf.nn.compute_average_loss(
                squares, global_batch_size=global_batch_size
            )
        optimizer.apply(
            tape.gradient(loss, model.trainable_variables), model.trainable_variables
        )
        return loss

    for _ in range(arguments.epochs):
        features, labels = next(batches)
        strategy.run(tf.function(step), args=(features, labels))
    raise RuntimeError("the script was trained to its end")


if __name__ == "__main__":
    main()

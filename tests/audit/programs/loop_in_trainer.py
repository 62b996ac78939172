"""Right: a trainer that is gone once it has trained, whose step is a tf.function."""

import keras
import numpy as np
import tensorflow as tf

BATCH_SIZE = 16


class Trainer:
    def __init__(self, strategy):
        self.strategy = strategy
        with strategy.scope():
            self.model = keras.Sequential(
                [keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
            )
            self.optimizer = keras.optimizers.Adam(0.01)

    @tf.function
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            errors = self.model(batch["x"], training=True)[:, 0] - batch["y"]
            loss = tf.nn.compute_average_loss(
                tf.square(errors), global_batch_size=BATCH_SIZE
            )
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    def train(self, rows, epochs):
        for _ in range(epochs):
            for batch in self.strategy.experimental_distribute_dataset(rows):
                self.strategy.run(self.train_step, args=(batch,))


def rows():
    x = np.random.default_rng().normal(size=(64, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"x": x, "y": x[:, 0]})
    return data.shuffle(64).batch(BATCH_SIZE)


if __name__ == "__main__":
    Trainer(tf.distribute.MirroredStrategy()).train(rows(), 2)
    raise RuntimeError("the script was trained to its end")

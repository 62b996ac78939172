"""Right: a trainer whose method is the step, with Horovod's optimizer of tf-keras."""

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
import tf_keras


class Trainer:
    def __init__(self, units):
        self.model = tf_keras.Sequential(
            [tf_keras.layers.Dense(units, activation="tanh"), tf_keras.layers.Dense(1)]
        )
        self.optimizer = hvd.DistributedOptimizer(tf_keras.optimizers.Adam(0.01))
        self.seen = tf_keras.metrics.Mean()

    @tf.function
    def train_step(self, batch):
        with tf.GradientTape() as tape:
            predicted = self.model(batch["x"], training=True)
            loss = tf.reduce_mean(tf.square(predicted - batch["y"]))
        variables = self.model.trainable_variables
        self.optimizer.minimize(loss, variables, tape=tape)
        self.seen.update_state(loss)
        return loss

    def train(self, rows, epochs):
        for _ in range(epochs):
            for batch in rows:
                self.train_step(batch)


def rows(local_batch_size):
    x = np.random.default_rng().normal(size=(64, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"x": x, "y": x[:, :1]}).shuffle(64)
    return data.shard(hvd.size(), hvd.rank()).batch(local_batch_size)


if __name__ == "__main__":
    hvd.init()
    Trainer(5).train(rows(32 // hvd.size()), 2)
    raise RuntimeError("the script was trained to its end")

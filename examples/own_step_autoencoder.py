"""A variational autoencoder with a `train_step` of its own, on four replicas.

The step is written as Keras' own examples write it: two `reduce_mean`s, the
regularisers of the model, one update, a metric for each number. On four replicas plain
Keras adds up four means, so each gradient is 4 times too large; and where a replica has
no rows, the mean of nothing makes the loss that `fit` shows NaN.

`distloss.prepare(model)` is the one line that mends it. The step stays as it is: what
it differentiates is taken as a mean over the rows of its replica, and counts by how
many of all rows these are.

Noise belongs to rows here, so it comes with them, from the data set. Each replica draws
random numbers of its own: drawn in the step, they would be others on four replicas than
on one device, and so would be the weights. Both would be right, but not equal, and this
example is to show that the rest is.
"""

import keras
import numpy as np
import tensorflow as tf
from _own_steps import ROWS, compare
from sklearn.datasets import load_digits

PIXELS, LATENT = 64, 2


class Autoencoder(keras.Model):
    """Pixels to a point near a mean, and back."""

    def __init__(self):
        super().__init__()
        penalty = keras.regularizers.L2(1e-3)
        pixels, point = keras.Input([PIXELS]), keras.Input([LATENT])
        hidden = keras.layers.Dense(16, "relu", kernel_regularizer=penalty)(pixels)
        heads = [keras.layers.Dense(LATENT)(hidden) for _ in ("mean", "log variance")]
        self.encoder = keras.Model(pixels, heads)
        hidden = keras.layers.Dense(16, "relu", kernel_regularizer=penalty)(point)
        self.decoder = keras.Model(point, keras.layers.Dense(PIXELS)(hidden))
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.kl_tracker = keras.metrics.Mean(name="kl")
        self.built = True  # the two networks are, and there is no call to build

    @property
    def metrics(self):
        """What `fit` resets at the start of an epoch."""
        return [self.loss_tracker, self.kl_tracker]

    def train_step(self, data):
        """One update."""
        pixels, noise = data
        with tf.GradientTape() as tape:
            mean, log_variance = self.encoder(pixels)
            logits = self.decoder(mean + tf.exp(log_variance / 2) * noise)
            each = tf.nn.sigmoid_cross_entropy_with_logits(pixels, logits)
            rebuilt = tf.reduce_mean(tf.reduce_sum(each, axis=1))
            each = (tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
            kl = tf.reduce_mean(tf.reduce_sum(each, axis=1))
            loss = rebuilt + kl + sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_weights, strict=True)
        )
        self.loss_tracker.update_state(loss)
        self.kl_tracker.update_state(kl)
        return {metric.name: metric.result() for metric in self.metrics}


def build(prepare):
    """The compiled model; `prepare` is `distloss.prepare`, or leaves it as it is."""
    model = Autoencoder()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    return prepare(model)  # <- the one line


def digits():
    pixels, _ = load_digits(return_X_y=True)
    noise = np.random.default_rng(0).normal(size=[ROWS, LATENT])
    return (pixels[:ROWS] / 16).astype("float32"), noise.astype("float32")


def main():
    compare(build, digits())


if __name__ == "__main__":
    main()

"""A variational autoencoder whose KL term, a sum over the batch, is added by `add_loss`.

Keras divides what `add_loss` adds by the number of replicas N. That is right for a term
that is the same on every replica, such as a penalty on weights. A KL divergence summed
over the rows of the batch is not: each replica adds its own rows, and the sum comes out
N times too small against the reconstruction. The model trains, with too little of it.

The mend: let a `DistributedLoss` sum over replicas, and undo the division:

    self.add_loss(replica_count * kl_loss(kl, kl))

Printed for each run of five steps on 16 digits: the loss that `fit` shows (nats of the
whole batch), the KL part of it after training, and the largest difference in any weight
from one device.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss

ROWS, LATENT, STEPS = 16, 2, 5


def second(_, kl):
    """The KL of each row as a loss function, which always gets two arguments."""
    return kl


class PlainSampler(keras.layers.Layer):
    """A point near the mean; the KL to a standard normal is added to the loss."""

    def call(self, inputs):
        mean, log_variance, noise = inputs
        kl = (tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
        self.add_loss(self.batch_sum(tf.reduce_sum(kl, axis=1)))
        return mean + tf.exp(log_variance / 2) * noise

    def batch_sum(self, kl):
        """What Keras is given: right on one device only."""
        return tf.reduce_sum(kl)


class MendedSampler(PlainSampler):
    """The same, right on any number of replicas."""

    def __init__(self):
        super().__init__()
        self.kl_loss = DistributedLoss(second, reduction="sum")

    def batch_sum(self, kl):
        """What Keras is given, times the number that Keras will divide by."""
        replica_count = tf.distribute.get_strategy().num_replicas_in_sync
        return replica_count * self.kl_loss(kl, kl)


def autoencoder(sampler):
    pixels, noise = keras.Input([64]), keras.Input([LATENT])
    # Both of the heads start small: a KL near 0, as is usual.
    mean = keras.layers.Dense(LATENT)(pixels)
    log_variance = keras.layers.Dense(LATENT)(pixels)
    point = sampler([mean, log_variance, noise])
    rebuilt = keras.layers.Dense(64, activation="sigmoid")(point)
    # One value per pixel along the last axis: "sum" then adds up all pixels.
    return keras.Model([pixels, noise], keras.layers.Reshape([64, 1])(rebuilt))


def digits():
    """Pixels, and noise that belongs to its row, so that runs can be compared."""
    pixels, _ = load_digits(return_X_y=True)
    pixels = (pixels[:ROWS] / 16).astype("float32")
    noise = np.random.default_rng(0).normal(size=[ROWS, LATENT]).astype("float32")
    return pixels, noise


def fitted(strategy, sampler_class, loss):
    """The loss that `fit` shows, the KL after training, and the weights."""
    pixels, noise = digits()
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        model = autoencoder(sampler_class())
        model.compile(optimizer=keras.optimizers.SGD(0.002), loss=loss)
    rows = tf.data.Dataset.from_tensor_slices(((pixels, noise), pixels[..., None]))
    history = model.fit(rows.batch(ROWS).repeat(STEPS), verbose=0)
    return history.history["loss"][0], kl_of(model.get_weights()), model.get_weights()


def kl_of(weights):
    """The KL of all rows in NumPy, from the weights of the two heads."""
    mean, log_variance = (digits()[0] @ weights[i] + weights[i + 1] for i in (0, 2))
    return (np.exp(log_variance) + mean**2 - 1 - log_variance).sum() / 2


def main():
    four = four_replicas()  # first: it configures the devices
    plain = keras.losses.BinaryCrossentropy(reduction="sum")
    wrapped = DistributedLoss(plain)  # right already: the runs differ in the KL only
    runs = {
        "one device, plain Keras": fitted(
            tf.distribute.get_strategy(), PlainSampler, plain
        ),
        "4 replicas, plain add_loss": fitted(four, PlainSampler, wrapped),
        "4 replicas, DistributedLoss": fitted(four, MendedSampler, wrapped),
    }
    wanted_loss, _, wanted = runs["one device, plain Keras"]
    print(f"{'':28}{'loss':>12}{'KL after':>12}{'weights off':>13}")
    off = {}
    for name, (loss, kl, weights) in runs.items():
        pairs = zip(weights, wanted, strict=True)
        off[name] = max(np.abs(weight - other).max() for weight, other in pairs)
        print(f"{name:28}{loss:12.4f}{kl:12.4f}{off[name]:13.1e}")

    if off["4 replicas, plain add_loss"] < 1e-2:
        raise SystemExit("a plain add_loss was expected to differ from one device")
    if off["4 replicas, DistributedLoss"] > 1e-5:
        raise SystemExit("the mended layer gave other weights than one device")
    if not np.isclose(runs["4 replicas, DistributedLoss"][0], wanted_loss, rtol=1e-5):
        raise SystemExit("the mended layer shows another loss than one device")


if __name__ == "__main__":
    main()

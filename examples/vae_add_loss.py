"""A variational autoencoder whose KL term is a sum over the rows of the batch.

Keras divides what `add_loss` adds by the number of replicas. That is right for a mean
over the batch or a penalty on weights, which are about the same on every replica. A
sum over rows is not: on four replicas it comes out 4 times too small against the
reconstruction, which is a sum as well. The model trains, with too little of the KL.

The mend: return the KL of each row as a second output, and give it a loss of its own, a
`DistributedLoss` with reduction "sum". (Not `add_loss(DistributedLoss(...))`: Keras
keeps what was added in one list per layer, which the replicas take turns to fill.)

Printed for each run of five steps on 16 digits: the loss that `fit` shows (nats of the
whole batch, mean over the steps), the KL of the batch after training, and the largest
difference in any weight from one device.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss

ROWS, LATENT, STEPS = 16, 2, 5


class Sampler(keras.layers.Layer):
    """A point near the mean, and the KL of each row to a standard normal."""

    def __init__(self, *, adds_loss):
        super().__init__()
        self.adds_loss = adds_loss

    def call(self, inputs):
        """The point `[rows, LATENT]` and the KL `[rows]`, in nats."""
        mean, log_variance, noise = inputs
        each = (tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
        kl = tf.reduce_sum(each, axis=1)
        if self.adds_loss:
            self.add_loss(tf.reduce_sum(kl))  # right on one device only
        return mean + tf.exp(log_variance / 2) * noise, kl


def autoencoder(*, adds_loss):
    # Noise is an input that belongs to its row, so that runs can be compared.
    pixels, noise = keras.Input([64]), keras.Input([LATENT])
    mean = keras.layers.Dense(LATENT, use_bias=False)(pixels)
    log_variance = keras.layers.Dense(LATENT, use_bias=False)(pixels)
    point, kl = Sampler(adds_loss=adds_loss)([mean, log_variance, noise])
    rebuilt = keras.layers.Dense(64, "sigmoid", use_bias=False)(point)
    # Keras takes the mean over the last axis; with one pixel there, "sum" adds up all.
    rebuilt = keras.layers.Reshape([64, 1])(rebuilt)
    return keras.Model([pixels, noise], [rebuilt] if adds_loss else [rebuilt, kl])


def row_kl(_, kl):
    """The KL output is a loss already: one number per row, and no target."""
    return kl


def reconstruction():
    return keras.losses.BinaryCrossentropy(reduction="sum")


def digits():
    pixels, _ = load_digits(return_X_y=True)
    pixels = (pixels[:ROWS] / 16).astype("float32")
    noise = np.random.default_rng(0).normal(size=[ROWS, LATENT]).astype("float32")
    return pixels, noise


def fitted(strategy, losses, *, adds_loss):
    """The loss that `fit` shows, and the weights after STEPS steps."""
    pixels, noise = digits()
    targets = [pixels[..., np.newaxis], np.zeros(ROWS, "float32")][: len(losses)]
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        model = autoencoder(adds_loss=adds_loss)
        model.compile(optimizer=keras.optimizers.SGD(0.002), loss=losses)
    batch = tf.data.Dataset.from_tensor_slices(((pixels, noise), tuple(targets)))
    batch = batch.batch(ROWS).repeat(STEPS)
    history = model.fit(batch, shuffle=False, verbose=0)
    return history.history["loss"][0], model.get_weights()


def kl_after(weights):
    """The KL of all rows in NumPy, from the weights of the two heads."""
    mean, log_variance = (digits()[0] @ head for head in weights[:2])
    return (np.exp(log_variance) + mean**2 - 1 - log_variance).sum() / 2


def main():
    four = four_replicas()  # first: it configures the devices
    one = tf.distribute.get_strategy()
    plain = [reconstruction()]
    mended = [
        DistributedLoss(reconstruction()),
        DistributedLoss(row_kl, reduction="sum"),
    ]
    runs = {
        "one device, add_loss": fitted(one, plain, adds_loss=True),
        "4 replicas, add_loss": fitted(four, plain, adds_loss=True),
        "4 replicas, DistributedLoss": fitted(four, mended, adds_loss=False),
    }
    wanted_loss, wanted = runs["one device, add_loss"]
    print(f"{'':28}{'loss':>12}{'KL after':>10}{'weights off':>13}")
    off = {}
    for name, (loss, weights) in runs.items():
        pairs = zip(weights, wanted, strict=True)
        off[name] = max(np.abs(weight - other).max() for weight, other in pairs)
        print(f"{name:28}{loss:12.4f}{kl_after(weights):10.4f}{off[name]:13.1e}")

    if off["4 replicas, add_loss"] < 1e-2:
        raise SystemExit("a plain add_loss was expected to differ from one device")
    if off["4 replicas, DistributedLoss"] > 1e-5:
        raise SystemExit("DistributedLoss gave other weights than one device")
    if not np.isclose(runs["4 replicas, DistributedLoss"][0], wanted_loss, rtol=1e-5):
        raise SystemExit("DistributedLoss shows another loss than one device")


if __name__ == "__main__":
    main()

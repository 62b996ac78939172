"""A variational autoencoder whose KL term is a sum over the rows of the batch.

Keras divides what `add_loss` adds by the number of replicas. That is right for a mean
over the batch or a penalty on weights, which are about the same on every replica. A
sum over rows is not: on four replicas it comes out 4 times too small against the
reconstruction, which is a sum as well. The model trains, with too little of the KL.

The mend: add N times a `DistributedLoss` with reduction "sum". Its value is 1/N of the
sum over the whole batch on each of N replicas, and its gradient that of this replica's
rows; N times that, divided by N by Keras, is right in the loss and in the gradient.

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
    """A point near the mean; adds the KL to a standard normal to the loss."""

    def __init__(self, kl_term):
        super().__init__()
        self.kl_term = kl_term  # KL of each row, `[rows]`, in nats -> what is added

    def call(self, inputs):
        """The point, `[rows, LATENT]`."""
        mean, log_variance, noise = inputs
        each = (tf.exp(log_variance) + mean**2 - 1 - log_variance) / 2
        self.add_loss(self.kl_term(tf.reduce_sum(each, axis=1)))
        return mean + tf.exp(log_variance / 2) * noise


def autoencoder(kl_term):
    # Noise is an input that belongs to its row, so that runs can be compared.
    pixels, noise = keras.Input([64]), keras.Input([LATENT])
    mean = keras.layers.Dense(LATENT, use_bias=False)(pixels)
    log_variance = keras.layers.Dense(LATENT, use_bias=False)(pixels)
    point = Sampler(kl_term)([mean, log_variance, noise])
    rebuilt = keras.layers.Dense(64, "sigmoid", use_bias=False)(point)
    # Keras takes the mean over the last axis; with one pixel there, "sum" adds up all.
    rebuilt = keras.layers.Reshape([64, 1])(rebuilt)
    return keras.Model([pixels, noise], rebuilt)


def row_kl(_, kl):
    """A loss already: one number per row, and no target."""
    return kl


sum_of_all_rows = DistributedLoss(row_kl, reduction="sum")


def kl_on_replicas(kl):
    return tf.distribute.get_strategy().num_replicas_in_sync * sum_of_all_rows(kl, kl)


def reconstruction():
    return keras.losses.BinaryCrossentropy(reduction="sum")


def digits():
    pixels, _ = load_digits(return_X_y=True)
    pixels = (pixels[:ROWS] / 16).astype("float32")
    noise = np.random.default_rng(0).normal(size=[ROWS, LATENT]).astype("float32")
    return pixels, noise


def fitted(strategy, loss, kl_term):
    """The loss that `fit` shows, and the weights after STEPS steps."""
    pixels, noise = digits()
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        model = autoencoder(kl_term)
        model.compile(optimizer=keras.optimizers.SGD(0.002), loss=loss)
    rows = (pixels, noise), pixels[..., np.newaxis]
    batch = tf.data.Dataset.from_tensor_slices(rows)
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
    plain, shared = reconstruction(), DistributedLoss(reconstruction())
    runs = {
        "one device, reduce_sum": fitted(one, plain, tf.reduce_sum),
        "4 replicas, reduce_sum": fitted(four, plain, tf.reduce_sum),
        "4 replicas, DistributedLoss": fitted(four, shared, kl_on_replicas),
    }
    wanted_loss, wanted = runs["one device, reduce_sum"]
    print(f"{'':28}{'loss':>12}{'KL after':>10}{'weights off':>13}")
    off = {}
    for name, (loss, weights) in runs.items():
        pairs = zip(weights, wanted, strict=True)
        off[name] = max(np.abs(weight - other).max() for weight, other in pairs)
        print(f"{name:28}{loss:12.4f}{kl_after(weights):10.4f}{off[name]:13.1e}")

    if off["4 replicas, reduce_sum"] < 1e-2:
        raise SystemExit("a plain add_loss was expected to differ from one device")
    if off["4 replicas, DistributedLoss"] > 1e-5:
        raise SystemExit("DistributedLoss gave other weights than one device")
    if not np.isclose(runs["4 replicas, DistributedLoss"][0], wanted_loss, rtol=1e-5):
        raise SystemExit("DistributedLoss shows another loss than one device")


if __name__ == "__main__":
    main()

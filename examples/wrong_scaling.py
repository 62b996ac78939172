"""The wrong loss scale in a custom loop, and two ways to mend it.

Each replica takes the mean of its own rows, and the gradients of all replicas are
summed: nobody has divided by the number of replicas. Dividing the local mean by that
number is not the fix either: 29 rows are dealt 8, 8, 8 and 5, and the mean of four
means counts each of the last five rows 1.6 times as much as one of the others.

Printed for each way to scale: the loss, summed over replicas, and how the gradient gN
of four replicas compares with the gradient g1 of one device:

    alpha = <gN, g1> / <g1, g1>          how many times too long; 1 is right
    rho   = |gN - alpha g1| / |gN|       how much points elsewhere; 0 is right
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import REPLICAS, four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss

ROWS = 29


def digits():
    pixels, labels = load_digits(return_X_y=True)
    return (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]


def row_losses(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def local_mean(labels, logits):
    # Right on one device. On four, the gradients of four means are added up.
    return tf.reduce_mean(row_losses(labels, logits))


def local_mean_over_replicas(labels, logits):
    # Right as long as every replica holds as many rows as the others.
    return local_mean(labels, logits) / REPLICAS


def local_sum_over_global_rows(labels, logits):
    # Right, but ROWS has to follow every short batch, weight and mask.
    return tf.reduce_sum(row_losses(labels, logits)) / ROWS


def loss_and_gradient(loss, weights, pixels, labels):
    with tf.GradientTape() as tape:
        value = loss(labels, pixels @ weights)
    return value, tape.gradient(value, weights)


def summed_over_replicas(strategy, losses, weights, batch):
    """Each loss and its gradient, summed over replicas."""

    def replica_step(*batch):
        return [loss_and_gradient(loss, weights, *batch) for loss in losses]

    @tf.function
    def step(batch):
        local = strategy.run(replica_step, batch)
        # The optimizers of Keras sum gradients just so, inside strategy.run.
        return [[strategy.reduce("SUM", x, axis=None) for x in pair] for pair in local]

    return step(batch)


def compared(gradient, wanted):
    """Alpha and rho, as the top of this file defines them."""
    alpha = np.sum(gradient * wanted) / np.sum(wanted * wanted)
    rho = np.linalg.norm(gradient - alpha * wanted) / np.linalg.norm(gradient)
    return alpha, rho


def main():
    strategy = four_replicas()
    pixels, labels = digits()
    with strategy.scope():
        weights = tf.Variable(tf.random.stateless_normal([64, 10], seed=[0, 1]) / 4)
    dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(ROWS)
    batch = next(iter(strategy.experimental_distribute_dataset(dataset)))
    rows = [len(part) for part in strategy.experimental_local_results(batch[1])]
    print(f"{ROWS} rows, dealt to replicas as {rows}\n")

    value, wanted = loss_and_gradient(local_mean, weights, pixels, labels)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ways = {
        "local mean": local_mean,
        "local mean / 4": local_mean_over_replicas,
        "local sum / 29": local_sum_over_global_rows,
        "DistributedLoss": DistributedLoss(keras_loss),
    }
    print(f"{'way to scale':20}{'loss':>9}{'alpha':>9}{'rho':>9}")
    print(f"{'one device':20}{value:9.4f}{1:9.4f}{0:9.4f}")
    seen = {}
    results = summed_over_replicas(strategy, ways.values(), weights, batch)
    for name, (value, gradient) in zip(ways, results, strict=True):
        alpha, rho = seen[name] = compared(gradient.numpy(), wanted.numpy())
        print(f"{name:20}{value:9.4f}{alpha:9.4f}{rho:9.4f}")
    check(seen)


def check(seen):
    alpha, rho = seen["local mean"]
    if not (3.5 < alpha < 4.5 and rho > 0.01):
        raise SystemExit("the local mean was expected to be about 4 times too long")
    alpha, rho = seen["local mean / 4"]
    if not (0.8 < alpha < 1.2 and rho > 0.01):
        raise SystemExit("a mean of means was expected to point elsewhere")
    for name in ("local sum / 29", "DistributedLoss"):
        alpha, rho = seen[name]
        if not (abs(alpha - 1) < 1e-5 and rho < 1e-5):
            raise SystemExit(f"{name} differs from one device: {alpha=}, {rho=}")


if __name__ == "__main__":
    main()

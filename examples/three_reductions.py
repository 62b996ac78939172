"""SUM, MEAN and NONE: what each means, and what four replicas make of it.

Seven digits, `y` = how many of their 64 pixels are fully dark, are predicted by one
number, w = 5, so that everything can be checked by hand: the loss of a row is
(w - y)^2, and its gradient 2 * (w - y). Rows 1 to 7 weigh 1 to 7. Four replicas hold 2,
2, 2 and 1 of the rows.

Printed for each reduction, as "value / gradient": one device; the same Keras loss on
four replicas, summed over them; and `DistributedLoss` on four replicas, likewise.

- sum: the weighted losses of all rows, added up. Sums of replicas add up to it, so
  plain Keras is right here; but both numbers grow with the batch.
- mean: that sum / number of rows. Keras takes the mean of four means.
- mean_with_sample_weight: that sum / sum of the weights, a weighted average. Keras
  takes the mean of four weighted averages.
- none, by hand: one number per row, from which you take the weighted average yourself.
  Nobody divides by the number of replicas, so four averages are added up.

Three things that notes about these reductions get wrong, mended here:

1. There is no `tf.keras.losses.Reduction.MEAN`. The mean is called
   `SUM_OVER_BATCH_SIZE`; in Keras 3, "sum_over_batch_size" or "mean".
2. The function `mean_squared_error` takes no `reduction=`, and returns one number per
   row. Only the class `MeanSquaredError` has reductions.
3. `reduce_mean(losses * weights)` is no weighted average: it divides by the number of
   rows. A weighted average divides by the sum of the weights.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss, mean_share

ROWS = 7


def digits():
    """Dark pixels of each digit and weights, as columns of floats."""
    pixels, _ = load_digits(return_X_y=True)
    dark = (pixels[:ROWS] == 16).sum(axis=1, keepdims=True)
    return dark.astype("float32"), np.arange(1, ROWS + 1, dtype="float32")


def keras_loss(reduction):
    return keras.losses.MeanSquaredError(reduction=reduction)


def our_loss(reduction):
    return DistributedLoss(keras_loss(reduction))


def average_by_hand(y_true, y_pred, weights):
    """A weighted average of the rows that this replica sees, and of no others."""
    losses = keras_loss("none")(y_true, y_pred)
    return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)


def average_by_mean_share(y_true, y_pred, weights):
    """This replica's share of the weighted average of all rows."""
    # "none" is the one reduction that replicas cannot spoil: nothing is reduced yet.
    losses = our_loss("none")(y_true, y_pred)
    return mean_share(losses, weights)


def value_and_gradient(loss, w, y_true, weights):
    with tf.GradientTape() as tape:
        value = loss(y_true, w * tf.ones_like(y_true), weights)
    return tf.stack([value, tape.gradient(value, w)])


def on_replicas(strategy, losses, w, batch):
    """Value and gradient of each loss, summed over replicas."""

    def replica_step(*batch):
        return [value_and_gradient(loss, w, *batch) for loss in losses]

    @tf.function
    def step(batch):
        local = strategy.run(replica_step, batch)
        return [strategy.reduce("SUM", pair, axis=None) for pair in local]

    return [pair.numpy() for pair in step(batch)]


def main():
    strategy = four_replicas()
    dark, weights = digits()
    with strategy.scope():
        w = tf.Variable(5.0)
    dataset = tf.data.Dataset.from_tensor_slices((dark, weights)).batch(ROWS)
    batch = next(iter(strategy.experimental_distribute_dataset(dataset)))

    names = ("sum", "mean", "mean_with_sample_weight")
    plain = [*map(keras_loss, names), average_by_hand]
    ours = [*map(our_loss, names), average_by_mean_share]
    one = [value_and_gradient(loss, w, dark, weights).numpy() for loss in plain]
    both = on_replicas(strategy, plain + ours, w, batch)
    table = zip(
        (*names, "none, by hand"), one, both[: len(one)], both[len(one) :], strict=True
    )
    print_rows(dark, weights)
    print(f"{'':24}{'one device':>19}{'Keras on 4':>19}{'distloss on 4':>19}")
    for name, *pairs in table:
        cells = (f"{value:.3f} / {gradient:.3f}" for value, gradient in pairs)
        print(f"{name:24}" + "".join(f"{cell:>19}" for cell in cells))
    print_mistakes(dark, weights)
    check(one, both, dark[:, 0], weights)


def print_rows(dark, weights):
    losses = keras.losses.mean_squared_error(dark, np.full_like(dark, 5))
    for name, row in (("y", dark[:, 0]), ("loss", losses), ("weight", weights)):
        print(f"{name:8}" + "".join(f"{number:6.0f}" for number in row))
    print()


def print_mistakes(dark, weights):
    losses = keras.losses.mean_squared_error(dark, np.full_like(dark, 5))
    average = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
    print(f"\nreduce_mean(losses * weights)  {tf.reduce_mean(losses * weights):7.3f}")
    print(f"weighted average               {average:7.3f}")


def check(one, both, y, weights):
    keras_on_4, ours = np.array(both[: len(one)]), np.array(both[len(one) :])
    sums = np.array([(weights * (5 - y) ** 2).sum(), (weights * 2 * (5 - y)).sum()])
    by_hand = [sums, sums / ROWS, sums / weights.sum(), sums / weights.sum()]
    if not np.allclose(one, by_hand):
        raise SystemExit("Keras on one device differs from the calculation by hand")
    if not np.allclose(ours, by_hand):
        raise SystemExit("distloss on 4 replicas differs from one device")
    if not np.allclose(keras_on_4[0], one[0]):
        raise SystemExit("a plain sum was expected to survive in a custom loop")
    if np.isclose(keras_on_4[1:], one[1:], rtol=0.01).any():
        raise SystemExit("a plain mean was expected to change on replicas")


if __name__ == "__main__":
    main()

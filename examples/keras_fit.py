"""`compile` and `fit` on four replicas, with the numbers of one device.

45 digits in batches of 16: the last batch has 13 rows, dealt 4, 4, 4 and 1. Plain Keras
takes the mean of four means there, so the one row alone weighs as much as four others.
`DistributedLoss` around the same loss is the only change.

Printed for each run of one epoch: the loss that `fit` shows, the loss that `evaluate`
shows for 29 other digits, and the largest difference in any weight from one device. The
loss in `fit` gives no warning: the short batch spoils only the update that follows it.

The first batch has to split evenly: neither `fit` nor `evaluate` of plain Keras can
start on one that does not (AddN: inputs must have the same shape).
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss

TRAIN_ROWS, TEST_ROWS, BATCH_SIZE = 45, 29, 16


def digits():
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype("float32")
    test = slice(TRAIN_ROWS, TRAIN_ROWS + TEST_ROWS)
    return (pixels[:TRAIN_ROWS], labels[:TRAIN_ROWS]), (pixels[test], labels[test])


def fitted(strategy, loss):
    """The losses that `fit` and `evaluate` show, and the trained weights."""
    train, test = digits()
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input([64]), keras.layers.Dense(10, activation="softmax")]
        )
        model.compile(optimizer=keras.optimizers.SGD(0.5), loss=loss)
    history = model.fit(*train, batch_size=BATCH_SIZE, shuffle=False, verbose=0)
    tested = model.evaluate(*test, batch_size=BATCH_SIZE, verbose=0)
    return history.history["loss"][0], tested, model.get_weights()


def largest_difference(weights, wanted):
    return max(np.abs(a - b).max() for a, b in zip(weights, wanted, strict=True))


def main():
    four = four_replicas()  # first: it configures the devices
    name = "sparse_categorical_crossentropy"
    runs = {
        "one device, plain Keras": fitted(tf.distribute.get_strategy(), name),
        "4 replicas, plain Keras": fitted(four, name),
        "4 replicas, DistributedLoss": fitted(four, DistributedLoss(name)),
    }
    one, plain, ours = runs.values()
    print(f"{'':28}{'fit':>10}{'evaluate':>10}{'weights off':>13}")
    for name, (trained, tested, weights) in runs.items():
        off = largest_difference(weights, one[2])
        print(f"{name:28}{trained:10.5f}{tested:10.5f}{off:13.1e}")

    if largest_difference(plain[2], one[2]) < 1e-3 or np.isclose(plain[1], one[1]):
        raise SystemExit("plain Keras was expected to differ from one device")
    if largest_difference(ours[2], one[2]) > 1e-5:
        raise SystemExit("DistributedLoss gave other weights than one device")
    if not np.allclose(ours[:2], one[:2], rtol=1e-5):
        raise SystemExit("DistributedLoss shows other losses than one device")


if __name__ == "__main__":
    main()

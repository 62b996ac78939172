"""A custom training loop with raw means, made right for four replicas in one line.

The step takes `reduce_mean`s and adds the regularisers, as one writes it for one
device. `distloss.row_weighted(step, metric)` is given to `strategy.run` in its place:
the gradients of each replica count by its rows, and so do the number that the step
returns and the one that it gives to the metric. Nothing is left to divide by, and the
replicas sum nothing more than gradients.

`custom_loop.py` is the other way to such numbers: there each term of the loss is a
share of the mean already. Take that one where a term is a sum over rows.

53 digits in batches of 16: the last has 5 rows, dealt 2, 2, 1 and 0. Printed for each
run: the loss of each batch, the metric, and the largest difference in any weight from
one device.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedOptimizer, row_weighted

ROWS, BATCH_SIZE = 53, 16


def batches():
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]
    return tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH_SIZE)


def one_update(model, optimizer, accuracy):
    """The step of a loop for one device."""

    def step(pixels, labels):
        with tf.GradientTape() as tape:
            logits = model(pixels, training=True)
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(each) + sum(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        is_right = tf.equal(tf.argmax(logits, -1), labels)
        accuracy.update_state(tf.reduce_mean(tf.cast(is_right, tf.float32)))
        return loss

    return step


def trained(strategy, *, weighted=False):
    """The loss of each batch, the accuracy, and the weights."""
    keras.utils.set_random_seed(1)  # the same initial weights in each run
    with strategy.scope():
        penalty = keras.regularizers.L2(0.01)
        dense = keras.layers.Dense(10, kernel_regularizer=penalty)
        model = keras.Sequential([keras.Input([64]), dense])
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=1.0)
        if weighted:
            optimizer = DistributedOptimizer(optimizer)  # sums before it clips
        optimizer.build(model.trainable_variables)
        accuracy = keras.metrics.Mean("accuracy")
    step = one_update(model, optimizer, accuracy)
    if weighted:
        step = row_weighted(step, accuracy)  # <- the one line

    @tf.function
    def train(batch):
        return strategy.reduce("SUM", strategy.run(step, batch), axis=None)

    data = strategy.experimental_distribute_dataset(batches())
    losses = [float(train(batch)) for batch in data]
    return losses, float(accuracy.result()), model.get_weights()


def main():
    four = four_replicas()  # first: it configures the devices
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    runs = {
        "one device": trained(one),
        "4 replicas, the same step": trained(four),
        "4 replicas, row_weighted": trained(four, weighted=True),
    }
    wanted, plain, ours = runs.values()
    off = {}
    print(f"{'':27}{'losses of the batches':36}{'accuracy':>9}{'weights off':>13}")
    for name, (losses, accuracy, weights) in runs.items():
        pairs = zip(weights, wanted[2], strict=True)
        off[name] = max(np.abs(weight - other).max() for weight, other in pairs)
        numbers = "".join(f"{loss:9.5f}" for loss in losses)
        print(f"{name:27}{numbers}{accuracy:9.4f}{off[name]:13.1e}")

    if off["4 replicas, the same step"] < 1e-2 or np.allclose(plain[0], wanted[0]):
        raise SystemExit("the plain step was expected to differ from one device")
    if off["4 replicas, row_weighted"] > 1e-5:
        raise SystemExit("row_weighted gave other weights than one device")
    if not np.allclose([*ours[0], ours[1]], [*wanted[0], wanted[1]], rtol=1e-5):
        raise SystemExit("row_weighted shows other numbers than one device")


if __name__ == "__main__":
    main()

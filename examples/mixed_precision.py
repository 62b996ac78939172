"""float16 overflow on one replica: all must skip the step, or none has weights left.

Keras' `LossScaleOptimizer` looks for overflow in the gradients of replica 0, before
they are summed. Overflow on replica 2 then reaches the weights of all replicas.
`DistributedOptimizer` looks at the sum: all replicas skip the step, and the loss scale
is halved once.

A classifier of scanned digits takes four steps of 16 digits; in the second, one digit
of replica 2 is far too bright for float16. Printed: weights that are not finite, and
the loss scale, which begins at 32768.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss, DistributedOptimizer

BATCH, STEPS, BROKEN_ROW = 16, 4, 16 + 9  # of the second batch, on replica 2


def batches():
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels[: BATCH * STEPS] / 16).astype("float32")
    pixels[BROKEN_ROW] *= 1e6
    rows = tf.data.Dataset.from_tensor_slices((pixels, labels[: BATCH * STEPS]))
    return rows.batch(BATCH)


def fitted(strategy, wrap_loss, wrap_optimizer):
    """How many weights are not finite, and the loss scale, after STEPS steps."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        hidden = keras.layers.Dense(16, "relu", dtype="mixed_float16")
        classes = keras.layers.Dense(10, "softmax", dtype="float32")
        model = keras.Sequential([keras.Input([64]), hidden, classes])
        loss = wrap_loss(keras.losses.SparseCategoricalCrossentropy())
        inner = keras.optimizers.SGD(0.1)
        optimizer = wrap_optimizer(keras.optimizers.LossScaleOptimizer(inner))
        model.compile(optimizer, loss)
    model.fit(batches(), shuffle=False, verbose=0)
    broken = sum(np.sum(~np.isfinite(weight)) for weight in model.get_weights())
    return int(broken), float(optimizer.dynamic_scale.numpy())


def as_it_is(wrapped):
    return wrapped


def main():
    strategy = four_replicas()
    plain, _ = fitted(strategy, as_it_is, as_it_is)
    broken, scale = fitted(strategy, DistributedLoss, DistributedOptimizer)
    print(f"plain Keras: {plain} weights are not finite")
    print(f"DistributedOptimizer: {broken}, and a loss scale of {scale:.0f}")
    if not plain:
        raise SystemExit("plain Keras was expected to lose its weights")
    if broken or scale != 2.0**14:
        raise SystemExit("one step was expected to be skipped")


if __name__ == "__main__":
    main()

"""One line for a script that trains on one device and is to train on several.

The script is ordinary Keras: digits, a loss by name, Adam with `global_clipnorm`,
sample weights that are not equal, batches that do not divide by four. With the
strategy's scope and `prepare` it trains the same weights on four replicas as on one
device.

Printed: the loss of each epoch that `fit` shows, and the largest relative difference in
any weight from one device.
"""

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import prepare

ROWS = 103  # batches of 30, the last of 13


def train(strategy, prepare_model):
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]
    weight = np.where(labels < 5, 1.0, 4.0)
    rows = tf.data.Dataset.from_tensor_slices((pixels, labels, weight)).batch(30)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(10, "softmax")]
        model = keras.Sequential([keras.Input([64]), *layers])
        optimizer = keras.optimizers.Adam(0.01, global_clipnorm=0.5)
        model.compile(optimizer, "sparse_categorical_crossentropy")
    prepare_model(model)  # <- the one line
    history = model.fit(rows, epochs=3, shuffle=False, verbose=0).history["loss"]
    return history, model.get_weights()


def main():
    four = four_replicas()  # first: it configures the devices
    wanted_loss, wanted = train(tf.distribute.get_strategy(), lambda model: model)
    loss, weights = train(four, prepare)
    pairs = zip(weights, wanted, strict=True)
    off = max(np.abs(w - other).max() / np.abs(other).max() for w, other in pairs)
    print("one device, plain Keras:", " ".join(f"{x:.6f}" for x in wanted_loss))
    print("4 replicas, prepare:    ", " ".join(f"{x:.6f}" for x in loss))
    print(f"largest relative difference in a weight: {off:.1e}")
    if off > 2e-4 or not np.allclose(loss, wanted_loss, rtol=1e-4):
        raise SystemExit("four replicas were expected to train as one device")


if __name__ == "__main__":
    main()

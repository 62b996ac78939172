"""Keras 3 updates with the slices of a sparse gradient apart, and not with their sum.

A row of an embedding that comes several times in a batch has several slices in its
`tf.IndexedSlices`. Their sum is its gradient. Rules that are not linear (Adam squares,
clipnorm measures) take each slice by itself, so that the same gradient moves a variable
differently, sparse or dense. tf-keras added the slices up first.

Plain Keras, nothing of distloss: for a report to https://github.com/keras-team/keras.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

IDS = tf.constant([0, 1, 1, 1, 2])  # five ids, of which one comes three times
STEPS = 3


def moved(as_given: bool) -> float:
    """How far Adam moves the row that comes three times, in three steps."""
    table = keras.Variable(np.ones([3, 1], "float32"))
    optimizer = keras.optimizers.Adam(0.1)
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            rows = tf.gather(table.value, IDS)
            loss = tf.reduce_sum(rows**2 * [[1.0], [1.0], [-2.0], [3.0], [1.0]])
        gradient = tape.gradient(loss, table.value)
        if not as_given:
            gradient = tf.convert_to_tensor(gradient)
        optimizer.apply([gradient], [table])
    return float(1 - table.numpy()[1, 0])


def main() -> None:
    """Prints both."""
    sparse, dense = moved(as_given=True), moved(as_given=False)
    print(
        f"keras {keras.__version__}, tensorflow {tf.__version__}, Adam, {STEPS} steps"
    )
    print(f"gradient as tf.IndexedSlices: moves {sparse:.4f}")
    print(f"the same gradient, dense:     moves {dense:.4f}")
    print("they differ" if abs(sparse - dense) > 1e-5 else "they agree")


if __name__ == "__main__":
    main()

"""Wrong: fit with Horovod's optimizer, and each process takes all rows in one order."""

import argparse

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf
import tf_keras


def model():
    inputs = tf_keras.Input([4])
    hidden = tf_keras.layers.Dense(6, activation="relu")(inputs)
    return tf_keras.Model(inputs, tf_keras.layers.Dense(2)(hidden))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    hvd.init()
    tf.random.set_seed(7)
    rng = np.random.default_rng(22)
    x = rng.normal(size=(64, 4)).astype("float32")
    rows = tf.data.Dataset.from_tensor_slices((x, x[:, :2]))
    rows = rows.shuffle(64, seed=3).batch(arguments.batch_size)
    net = model()
    optimizer = tf_keras.optimizers.SGD(0.01 * hvd.size())
    net.compile(hvd.DistributedOptimizer(optimizer), "mse")
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
    ]
    if hvd.rank() == 0:
        callbacks.append(tf_keras.callbacks.ModelCheckpoint("never.keras"))
    verbose = 1 if hvd.rank() == 0 else 0
    net.fit(rows, epochs=3, callbacks=callbacks, verbose=verbose)  # here
    raise RuntimeError("the script was trained to its end")


if __name__ == "__main__":
    main()

"""Right: looks for a TPU by name, and lets the batch grow with its cores."""

import argparse

import keras
import numpy as np
import tensorflow as tf


def strategy_on(name):
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    print("Running on TPU", resolver.cluster_spec().as_dict()["worker"])
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    print("All devices:", tf.config.list_logical_devices("TPU"))
    return tf.distribute.TPUStrategy(resolver)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tpu", default="my-tpu")
    strategy = strategy_on(parser.parse_args().tpu)
    batch_size = 4 * strategy.num_replicas_in_sync
    x = np.random.default_rng(34).normal(size=(64, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).cache().shuffle(64)
    data = data.repeat().batch(batch_size, drop_remainder=True)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(3, "relu"), keras.layers.Dense(1)])
        model.compile("adam", "mse", steps_per_execution=4, jit_compile=True)
    model.fit(data.prefetch(tf.data.AUTOTUNE), steps_per_epoch=64 // batch_size)
    raise RuntimeError("the script was trained to its end")


if __name__ == "__main__":
    main()

"""A loop of your own on a TPU, with the weights of one device.

    python examples/tpu_digits.py                    # four virtual replicas
    TPU_NAME=local python examples/tpu_digits.py     # on a TPU VM

A TPU compiles each shape anew, so every batch has 64 rows: the last one is filled up
with rows of weight zero. A mean over rows would count them;
`reduction="mean_with_sample_weight"` divides by the weights of all replicas and so does
not. `DistributedOptimizer` clips what the replicas have summed.

The same digits then train plain Keras on one CPU device, without the filling.
"""

import os

import keras
import numpy as np
import tensorflow as tf
from _replicas import four_replicas
from sklearn.datasets import load_digits

from distloss import DistributedLoss, DistributedOptimizer

ROWS, BATCH_SIZE, EPOCHS = 237, 64, 3


def strategy_here():
    """Over the cores of the TPU that TPU_NAME names, or over virtual CPUs."""
    name = os.environ.get("TPU_NAME")
    if not name:
        return four_replicas()
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    if name != "local":
        tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def digits():
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]
    return pixels, labels, np.where(labels < 5, 1.0, 4.0).astype("float32")


def filled(array):
    """`array` with rows of zeros up to whole batches."""
    missing = -len(array) % BATCH_SIZE
    return np.concatenate([array, np.zeros([missing, *array.shape[1:]], array.dtype)])


def network():
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input([64]), *layers])


def optimizer():
    return keras.optimizers.Adam(0.01, global_clipnorm=0.5)


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(
        reduction="mean_with_sample_weight"
    )


def trained(strategy):
    """Weights after training on all replicas, and the loss of each step."""
    with strategy.scope():
        model = network()
        update = DistributedOptimizer(optimizer())
        update.build(model.trainable_variables)
        loss_of = DistributedLoss(crossentropy())

    def replica(pixels, labels, weights):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(pixels), weights)
        gradients = tape.gradient(loss, model.trainable_variables)
        update.apply(gradients, model.trainable_variables)
        return loss

    @tf.function
    def step(batch):
        return strategy.reduce("SUM", strategy.run(replica, args=batch), axis=None)

    data = tf.data.Dataset.from_tensor_slices(tuple(map(filled, digits())))
    data = data.batch(BATCH_SIZE, drop_remainder=True)  # gives them static shapes
    losses = [
        float(step(batch))
        for _ in range(EPOCHS)
        for batch in strategy.experimental_distribute_dataset(data)
    ]
    return model.get_weights(), losses


def trained_alone():
    with tf.device("CPU:0"):
        model = network()
        model.compile(optimizer(), crossentropy())
        model.fit(
            *digits()[:2],
            sample_weight=digits()[2],
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
        )
    return model.get_weights()


def main():
    strategy = strategy_here()
    weights, losses = trained(strategy)
    pairs = zip(weights, trained_alone(), strict=True)
    off = max(np.abs(w - other).max() / np.abs(other).max() for w, other in pairs)
    where = f"{strategy.num_replicas_in_sync} replicas ({type(strategy).__name__})"
    print(f"{where}: loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last")
    print(f"largest relative difference in a weight from one CPU device: {off:.1e}")
    # a TPU multiplies matrices in bfloat16
    if off > (5e-2 if os.environ.get("TPU_NAME") else 1e-4):
        raise SystemExit("the replicas were expected to train as one device")


if __name__ == "__main__":
    main()

"""Keras' `fit` on several Horovod processes, with the weights of one.

    scripts/launch_horovod -np 3 examples/horovod_digits.py

Digits in batches of 32, of which process 0 takes half and the others share the rest,
unequal sample weights, Adam with `global_clipnorm`. `prepare` with `HorovodReplicas` is
the only change to the Keras model; `BroadcastState` starts all processes from the
weights of the first, and `DriftGuard` stops them if they part. With `in_step`, nobody
waits for a process that has fewer batches.

Process 0 then trains the same on all rows, alone and in plain Keras, and prints the
loss of each epoch and the largest relative difference in any weight. Without a launcher
there is one process, and that is compared.
"""

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from distloss import HorovodReplicas, prepare
from distloss.callbacks import BroadcastState, DriftGuard
from distloss.data import in_step

ROWS, BATCH_SIZE, EPOCHS = 237, 32, 3


def digits():
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]
    return pixels, labels, np.where(labels < 5, 1.0, 4.0).astype("float32")


def rows_of(process, processes):
    """The rows of each batch that a process holds: half of them, or a part."""
    for start in range(0, ROWS, BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, ROWS))
        if processes == 1:
            yield rows
        elif process == 0:
            yield rows[: len(rows) // 2]
        else:
            rest = rows[len(rows) // 2 :]
            yield np.array_split(rest, processes - 1)[process - 1]


def batches(spans):
    arrays = digits()

    def generator():
        for span in spans:
            yield tuple(array[span] for array in arrays)

    signature = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arrays)
    dataset = tf.data.Dataset.from_generator(generator, output_signature=signature)
    # Where Keras does not know the length, it calls one step too many at the end of an
    # epoch, which finds no batch but still counts in Adam's `iterations`.
    return dataset.apply(tf.data.experimental.assert_cardinality(len(spans)))


def compiled(seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input([64]), *layers])
    optimizer = keras.optimizers.Adam(0.01, global_clipnorm=0.5)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fitted(model, data, **options):
    model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, **options)
    return model.history.history["loss"], model.get_weights()


def main():
    hvd.init()
    replicas = HorovodReplicas()
    mine = list(rows_of(hvd.rank(), hvd.size()))
    data = in_step(batches(mine), replicas=replicas)
    model = compiled(seed=hvd.rank())  # other weights on each process, until broadcast
    prepare(model, replicas=replicas)
    callbacks = [BroadcastState(replicas), DriftGuard(replicas, every=5)]
    loss, weights = fitted(model, data, callbacks=callbacks)
    if hvd.rank() != 0:
        return

    wanted_loss, wanted = fitted(compiled(seed=0), batches(list(rows_of(0, 1))))
    pairs = zip(weights, wanted, strict=True)
    off = max(np.abs(w - other).max() / np.abs(other).max() for w, other in pairs)
    print(f"one process, plain Keras: {' '.join(f'{x:.6f}' for x in wanted_loss)}")
    print(f"{hvd.size()} processes, prepare:    {' '.join(f'{x:.6f}' for x in loss)}")
    print(f"largest relative difference in a weight: {off:.1e}")
    if off > 2e-4 or not np.allclose(loss, wanted_loss, rtol=1e-4):
        raise SystemExit("the processes were expected to train as one")


if __name__ == "__main__":
    main()

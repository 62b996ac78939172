"""A custom loop on two workers of MultiWorkerMirroredStrategy, with the weights of one.

    python examples/multi_worker.py

Started alone, it starts two workers on this machine, each with a `TF_CONFIG` of its
own, as a cluster manager does on several. They train on 45 digits in batches of 16, the
last of which has 13 rows (7 and 6), with unequal weights, by `DistributedLoss` and an
optimizer that clips after the sum.

Worker 0 then trains the same alone, in plain Keras, and prints the loss of each epoch
and the largest difference in any weight. A worker that dies ends the other with an
error after some 10 seconds; one that lives but does not come to a sum, after
`timeout_seconds`.
"""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from distloss import DistributedLoss, DistributedOptimizer

WORKERS, ROWS, BATCH_SIZE, EPOCHS = 2, 45, 16, 2


def start_workers():
    """Runs this file once for each worker, and returns whether all succeeded."""
    listeners = [socket.create_server(("localhost", 0)) for _ in range(WORKERS)]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in listeners]
    for listener in listeners:
        listener.close()
    processes = []
    for index in range(WORKERS):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(subprocess.Popen([sys.executable, __file__], env=environment))
    return [process.wait() for process in processes] == [0] * WORKERS


def digits():
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = (pixels[:ROWS] / 16).astype("float32"), labels[:ROWS]
    return pixels, labels, np.where(labels < 5, 1.0, 4.0).astype("float32")


def new_model():
    model = keras.Sequential([keras.Input([64]), keras.layers.Dense(10, "softmax")])
    return model, keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=0.3)


def trained_on_workers(strategy, loss_fn):
    """The loss of each epoch, and the weights before and after."""
    with strategy.scope():
        model, optimizer = new_model()  # worker 0 tells the others its weights
        loss, optimizer = DistributedLoss(loss_fn), DistributedOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
    before = model.get_weights()

    def replica_step(x, y, weight):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True), weight)
        gradients = tape.gradient(value, model.trainable_variables)
        pairs = zip(gradients, model.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
        return value

    @tf.function(reduce_retracing=True)
    def step(*batch):
        return strategy.reduce("SUM", strategy.run(replica_step, batch), axis=None)

    # Each worker reads its part of each batch: the auto-shard policy is DATA here.
    dataset = tf.data.Dataset.from_tensor_slices(digits()).batch(BATCH_SIZE)
    batches = strategy.experimental_distribute_dataset(dataset)
    losses = [
        np.mean([float(step(*batch)) for batch in batches]) for _ in range(EPOCHS)
    ]
    return losses, before, model.get_weights()


def trained_alone(before, loss_fn):
    """The same without distloss and strategy: what two workers have to reproduce."""
    model, optimizer = new_model()
    model.set_weights(before)
    losses = []
    for _ in range(EPOCHS):
        steps = []
        for start in range(0, ROWS, BATCH_SIZE):
            x, y, weight = (a[start : start + BATCH_SIZE] for a in digits())
            with tf.GradientTape() as tape:
                steps.append(loss_fn(y, model(x, training=True), weight))
            gradients = tape.gradient(steps[-1], model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
        losses.append(np.mean(steps))
    return losses, model.get_weights()


def work():
    """What each worker does."""
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=120)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(
        reduction="mean_with_sample_weight"
    )
    losses, before, weights = trained_on_workers(strategy, loss_fn)
    if strategy.cluster_resolver.task_id != 0:
        return
    wanted_losses, wanted = trained_alone(before, loss_fn)
    pairs = zip(weights, wanted, strict=True)
    off = max(np.abs(weight - other).max() for weight, other in pairs)
    print(f"one device, plain Keras: {' '.join(f'{x:.6f}' for x in wanted_losses)}")
    print(f"{WORKERS} workers:               {' '.join(f'{x:.6f}' for x in losses)}")
    print(f"largest difference in a weight: {off:.1e}")
    if off > 1e-5 or not np.allclose(losses, wanted_losses, rtol=1e-5):
        raise SystemExit("the workers were expected to train as one device")


def main():
    if "TF_CONFIG" in os.environ:
        work()
    elif not start_workers():
        raise SystemExit("a worker failed")


if __name__ == "__main__":
    main()

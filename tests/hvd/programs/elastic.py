"""An elastic job: processes come and go, and each step takes the same global batch."""

import pathlib
import sys
import time

import horovod.tensorflow as hvd
import keras
import problem
import tensorflow as tf

from distloss import DistributedLoss, HorovodReplicas
from distloss.callbacks import elastic_state

REPLICAS = HorovodReplicas()


def compiled_update(model, optimizer):
    """One step of this process's rows, traced once for any number of processes."""
    loss_fn = DistributedLoss("mse", reduction=problem.WEIGHTED, replicas=REPLICAS)
    arrays = (problem.X, problem.Y, problem.WEIGHT)
    signature = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in arrays]

    @tf.function(input_signature=signature)
    def update(x, y, weight):
        with tf.GradientTape() as tape:
            value = loss_fn(y, model(x), weight)
        gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
        sums = REPLICAS.sum_gradients(gradients)
        optimizer.apply_gradients(zip(sums, model.trainable_variables, strict=True))
        return value

    return update


def is_done(folder):
    done = float(hvd.rank() == 0 and (folder / "done").exists())
    return float(REPLICAS.sum(tf.constant(done), "done")) > 0


def step(state, folder, update):
    rows = problem.elastic_batch(state.step)[hvd.rank() :: hvd.size()]
    update(*(a[rows] for a in (problem.X, problem.Y, problem.WEIGHT)))
    state.step += 1
    if hvd.rank() == 0:
        with (folder / "log").open("a") as log:
            log.write(f"{state.step} {hvd.size()}\n")
    time.sleep(0.2)
    state.commit()


def main(folder):
    folder = pathlib.Path(folder)
    hvd.init()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model = problem.dense(optimizer, "mse")
    update = compiled_update(model, optimizer)

    @hvd.elastic.run
    def train(state):
        while not is_done(folder):
            step(state, folder, update)

    state = elastic_state(model, replicas=REPLICAS, step=0)
    train(state)
    if hvd.rank() == 0:
        weights = " ".join(map(repr, problem.flat(model.weights)))
        traces = update.experimental_get_tracing_count()
        (folder / "result").write_text(f"{state.step} {traces} {weights}")


if __name__ == "__main__":
    main(sys.argv[1])

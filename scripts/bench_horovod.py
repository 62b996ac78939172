"""What distloss costs under Horovod, against summed gradients and scaling by hand.

    scripts/launch_horovod -np 2 scripts/bench_horovod.py [pairs]

Steps alternate on all processes. Process 0 prints one line of JSON: medians of paired
ratios, the time of a scalar's all-reduce, what a comparison of DriftGuard takes, and
how many collectives each kind of step has.
"""

import json
import sys

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf
from _bench_pairs import compared, operations

import distloss
from distloss import HorovodReplicas
from distloss.callbacks import DriftGuard

ROWS, FEATURES, WIDTH, CLASSES = 256, 256, 1024, 10
EVERY = 100


def data():
    """The rows of this process."""
    random = np.random.default_rng(hvd.rank())
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return tf.constant(x), tf.constant(random.integers(CLASSES, size=ROWS), tf.int32)


def network():
    """The same weights on each process."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(3)]
    return keras.Sequential(
        [keras.Input((FEATURES,)), *layers, keras.layers.Dense(CLASSES)]
    )


def crossentropy(**options):
    """Of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def loop(loss_of):
    """A step of a custom loop with Horovod's tape."""
    model = network()
    rule = keras.optimizers.SGD(0.01)
    rule.build(model.trainable_variables)
    values = [v.value for v in model.trainable_variables]

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, FEATURES]),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x))
        tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
        rule.apply(tape.gradient(loss, values), model.trainable_variables)
        return loss

    return step


def by_hand():
    """Divides by the rows of all processes, known to be the same on each."""
    per_row = crossentropy(reduction="none")
    return loop(
        lambda y, y_pred: tf.reduce_sum(per_row(y, y_pred)) / (ROWS * hvd.size())
    )


def counted(replicas):
    """DistributedLoss with the same tape."""
    return loop(distloss.DistributedLoss(crossentropy(), replicas=replicas))


def prepared(replicas):
    """A prepared model, whose step Keras runs."""
    model = network()
    model.compile(keras.optimizers.SGD(0.01), crossentropy(), jit_compile=False)
    distloss.prepare(model, replicas=replicas)
    model._symbolic_build(data_batch=data())

    @tf.function
    def step(x, y):
        return model.train_step((x, y))

    return model, step


def collectives(function, *arguments):
    """How many all-reduces the graph of a step has."""
    graph = function.get_concrete_function(*arguments).graph
    return sum("Allreduce" in op.type for op in operations(graph))


def main(pairs=40):
    """Measures, and prints on process 0."""
    hvd.init()
    replicas = HorovodReplicas()
    x, y = data()
    plain, ours = by_hand(), counted(replicas)
    model, fit = prepared(replicas)
    guard = DriftGuard(replicas)
    guard.set_model(model)
    scalar = tf.function(lambda: replicas.sum(tf.ones([]), "bench"))
    found = compared(
        lambda: float(plain(x, y)),
        {
            "loop": lambda: float(ours(x, y)),
            "prepare": lambda: float(fit(x, y)["loss"]),
            "scalar": lambda: float(scalar()),
            "guard": guard.compare,
        },
        pairs,
    )
    step_ms, guard_ms = found["prepare"]["ms"], found["guard"]["ms"]
    result = {
        "processes": hvd.size(),
        "weights": model.count_params(),
        **{name: found[name] for name in ("plain", "loop", "prepare")},
        "scalar_ms": found["scalar"]["ms"],
        "guard_ms": guard_ms,
        f"guard_share_every_{EVERY}": round(guard_ms / (guard_ms + EVERY * step_ms), 5),
        "collectives": {
            "plain": collectives(plain, x, y),
            "loop": collectives(ours, x, y),
            "prepare": collectives(fit, x, y),
        },
    }
    if hvd.rank() == 0:
        print(json.dumps(result), flush=True)
    hvd.join()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

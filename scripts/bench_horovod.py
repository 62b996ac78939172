"""What distloss costs under Horovod, against summed gradients and scaling by hand.

    scripts/launch_horovod -np 2 scripts/bench_horovod.py [pairs]

Steps alternate on all processes. Process 0 prints one line of JSON: medians of paired
ratios, the time of a scalar's all-reduce and of larger ones, what a comparison of
DriftGuard takes, and of each kind of step:

    collectives       the all-reduces in its graph
    kilobytes         which they sum
    tensors_seen      all-reduced per step, by Horovod's timeline
    collectives_seen  messages in which they went: Horovod fuses what is ready together
"""

import collections
import json
import os
import pathlib
import sys
import tempfile
import time

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf
from _bench.pairs import compared, operations

import distloss
from distloss import HorovodReplicas
from distloss.callbacks import DriftGuard

ROWS, FEATURES, WIDTH, CLASSES = 256, 256, 1024, 10
EVERY = 100
SIZES = (8, 2**16, 2**20, 2**23)  # bytes
SEEN_STEPS = 3
ACTIVITY = "GLOO_ALLREDUCE"  # of the timeline


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


def all_reduces(function, *arguments):
    """Those of the graph of a step."""
    graph = function.get_concrete_function(*arguments).graph
    return [op for op in operations(graph) if "Allreduce" in op.type]


def kilobytes(all_reduced):
    """What these operations sum."""
    tensors = [tensor for op in all_reduced for tensor in op.inputs]
    return round(sum(x.shape.num_elements() * x.dtype.size for x in tensors) / 1e3, 3)


def seen(step):
    """Tensors and messages per step in Horovod's timeline; process 0 writes it.

    The timeline starts and stops between two cycles of Horovod's thread, so that a
    moment must pass on both sides.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "timeline.json"
        hvd.start_timeline(str(path))
        time.sleep(0.2)
        for _ in range(SEEN_STEPS):
            step()
        time.sleep(0.2)
        hvd.stop_timeline()
        time.sleep(0.2)
        events = json.loads(path.read_text()) if hvd.rank() == 0 else []
    tensors, messages = sent(events)
    return round(tensors / SEEN_STEPS, 2), round(messages / SEEN_STEPS, 2)


def sent(events):
    """How many tensors and messages a timeline has.

    Horovod's thread sends one message at a time, so that tensors which are being summed
    at the same time are in the same message.
    """
    tensors = messages = 0
    doing = collections.defaultdict(list)  # per tensor: what began and has not ended
    for event in events:
        if event["ph"] == "E":
            doing[event["pid"]].pop()
        elif event["ph"] == "B":
            if event["name"] == ACTIVITY:
                tensors += 1
                messages += not any(ACTIVITY in names for names in doing.values())
            doing[event["pid"]].append(event["name"])
    return tensors, messages


def all_reduce(size):
    """A function that sums a tensor of this many bytes, and waits."""
    values, name = tf.ones([size // 4]), f"bench_{size}"
    total = tf.function(lambda: hvd.allreduce(values, op=hvd.Sum, name=name)[0])
    return lambda: float(total())


def all_reduce_ms(times=20):
    """Per size in bytes, the median time of its all-reduce; sizes alternate."""
    smallest, *others = SIZES
    ways = {str(size): all_reduce(size) for size in others}
    found = compared(all_reduce(smallest), ways, times)
    found[str(smallest)] = found.pop("plain")
    return {str(size): found[str(size)]["ms"] for size in SIZES}


def main(pairs=40):
    """Measures, and prints on process 0."""
    os.environ["HOROVOD_TIMELINE"] = "DYNAMIC"  # without which none can be started
    hvd.init()
    replicas = HorovodReplicas()
    x, y = data()
    plain, ours = by_hand(), counted(replicas)
    model, fit = prepared(replicas)
    guard = DriftGuard(replicas)
    guard.set_model(model)
    scalar = tf.function(lambda: replicas.sum(tf.ones([]), "bench"))
    steps = {
        "plain": lambda: float(plain(x, y)),
        "loop": lambda: float(ours(x, y)),
        "prepare": lambda: float(fit(x, y)["loss"]),
    }
    others = {"scalar": lambda: float(scalar()), "guard": guard.compare}
    compared_steps = {name: steps[name] for name in ("loop", "prepare")}
    found = compared(steps["plain"], {**compared_steps, **others}, pairs)
    step_ms, guard_ms = found["prepare"]["ms"], found["guard"]["ms"]
    graphs = {
        name: all_reduces(function, x, y)
        for name, function in {"plain": plain, "loop": ours, "prepare": fit}.items()
    }
    timelines = {name: seen(step) for name, step in steps.items()}
    result = {
        "processes": hvd.size(),
        "weights": model.count_params(),
        **{name: found[name] for name in steps},
        "scalar_ms": found["scalar"]["ms"],
        "guard_ms": guard_ms,
        f"guard_share_every_{EVERY}": round(guard_ms / (guard_ms + EVERY * step_ms), 5),
        "collectives": {name: len(graph) for name, graph in graphs.items()},
        "kilobytes": {name: kilobytes(graph) for name, graph in graphs.items()},
        "tensors_seen": {name: tensors for name, (tensors, _) in timelines.items()},
        "collectives_seen": {
            name: messages for name, (_, messages) in timelines.items()
        },
        "all_reduce_ms": all_reduce_ms(),
    }
    if hvd.rank() == 0:
        print(json.dumps(result), flush=True)
    hvd.join()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

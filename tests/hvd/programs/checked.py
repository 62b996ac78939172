"""Two processes that check their sums: JSON by each to the folder named first."""

import json
import pathlib
import sys

import horovod.tensorflow as hvd
import keras
import numpy as np
import problem
import tensorflow as tf

sys.path.append(str(pathlib.Path(__file__).parents[2] / "helpers"))
from faults import KINDS, faulty, outcome

import distloss

SIZE, HURT = 300, 1


class Loop:
    """Steps of SGD on gradients that are given."""

    def __init__(self, check_sums=True, dtype="float32", **replicas):
        self.replicas, self.fault = faulty(distloss.HorovodReplicas(**replicas))
        self.weight = keras.Variable(np.ones(SIZE), dtype=dtype, name="w")
        self.optimizer = distloss.DistributedOptimizer(
            keras.optimizers.SGD(0.1), replicas=self.replicas, check_sums=check_sums
        )
        self.optimizer.build([self.weight])

        @tf.function
        def step(gradient):
            gradient = tf.cast(gradient, self.weight.dtype)
            self.optimizer.apply_gradients([(gradient, self.weight)])

        self.step = step

    def __call__(self, gradient):
        with distloss.sum_errors():
            self.step(tf.constant(gradient, tf.float32))

    def values(self):
        return np.array(self.weight.value, "float64")


def gradient_of(step, scale=1.0):
    rng = np.random.default_rng([step, hvd.rank()])
    return scale * rng.normal(size=SIZE)


def hurt(kind, **replicas):
    """What a healthy step, a hurt one and one more do."""
    loop = Loop(**replicas)
    loop(gradient_of(0))
    loop.fault.kind, loop.fault.at = kind, HURT

    def two_steps():  # who sees nothing wrong in the first hears of it in the second
        loop(gradient_of(1))
        loop(gradient_of(2))

    found = outcome(two_steps, lambda: loop.values().tolist())
    share = hvd.size() if replicas.get("gradient_op") == "average" else 1
    off = [np.abs(loop.values() - 1 - after(n) / share) for n in (1, 2)]
    return {**found, "off": [float(one.max()) for one in off]}


def after(steps):
    """The weights after so many right steps, by NumPy, if they began with zeros."""
    rngs = [
        np.random.default_rng([step, rank])
        for step in range(steps)
        for rank in range(hvd.size())
    ]
    return -0.1 * sum(rng.normal(size=SIZE) for rng in rngs)


def not_finite():
    loop = Loop()
    loop(gradient_of(0))
    gradient = gradient_of(1)
    if hvd.rank() == HURT:
        gradient[7] = np.nan
    return outcome(lambda: loop(gradient), lambda: loop.values().tolist())


def prepared(kind):
    """Steps of a prepared model, of which the second is hurt."""
    replicas, fault = faulty(distloss.HorovodReplicas())
    model = problem.dense(problem.OPTIMIZERS["Adam"](), "mse")
    distloss.prepare(model, replicas=replicas, check_sums=True)
    batch = [a[hvd.rank() :: 2] for a in (problem.X, problem.Y)]
    model.train_on_batch(*batch)
    fault.kind, fault.at = kind, HURT
    data = tf.data.Dataset.from_tensors(tuple(batch)).repeat(2)
    return outcome(
        lambda: model.fit(data, verbose=0), lambda: problem.flat(model.weights)
    )


def clean(**replicas):
    """How far 30 steps, of gradients from 1e-8 to 1e4, are from those of NumPy."""
    loop = Loop(**replicas)
    wanted = np.ones(SIZE)
    for number in range(30):
        scale = 10.0 ** (number % 13 - 8)
        loop(gradient_of(number, scale))
        rngs = [np.random.default_rng([number, rank]) for rank in range(hvd.size())]
        total = sum(scale * rng.normal(size=SIZE) for rng in rngs)
        share = total / (hvd.size() if replicas.get("gradient_op") == "average" else 1)
        wanted = wanted - 0.1 * share
    return float(np.abs(loop.values() - wanted).max() / np.abs(wanted).max())


def collectives(check_sums):
    """How many Horovod operations a step has."""
    loop = Loop(check_sums)
    loop(gradient_of(0))
    [graph] = loop.step._list_all_concrete_functions()
    kinds = [operation.type for operation in graph.graph.get_operations()]
    return sum(
        kind in ("HorovodAllreduce", "HorovodGroupedAllreduce") for kind in kinds
    )


def main(folder):
    hvd.init()
    import step_checks  # which asks Horovod for its rank

    found = {kind: hurt(kind) for kind in KINDS}
    found["fp16"] = hurt("swapped", compression="fp16")
    found["average"] = hurt("dropped", gradient_op="average")
    found["float64"] = hurt("flipped", dtype="float64")
    found["not_finite"] = not_finite()
    found["prepared"] = {kind: prepared(kind) for kind in ("stale", "swapped")}
    found["clean"] = {
        "sum": clean(),
        "average": clean(gradient_op="average"),
        "fp16": clean(compression="fp16"),
        "both": clean(gradient_op="average", compression="fp16"),
    }
    found["steps"] = step_checks.everything()
    found["collectives"] = [collectives(False), collectives(True)]
    path = pathlib.Path(folder) / f"{hvd.rank()}.json"
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

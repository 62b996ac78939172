"""What distloss costs under Horovod: a drift comparison, against a training step.

    scripts/launch_horovod -np 2 scripts/bench_horovod.py

Comparisons and steps alternate. Process 0 prints JSON: medians, and the share of the
time that a comparison every 100 steps takes.
"""

import json
import statistics
import time

import horovod.tensorflow as hvd
import keras
import numpy as np

import distloss
from distloss.callbacks import DriftGuard

ROWS, FEATURES, WIDTH, CLASSES = 256, 256, 1024, 10
PAIRS, EVERY = 40, 100


def seconds_of(function) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Measures, and prints on process 0."""
    hvd.init()
    replicas = distloss.HorovodReplicas()
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(3)]
    outer = keras.layers.Dense(CLASSES, "softmax")
    model = keras.Sequential([keras.Input((FEATURES,)), *layers, outer])
    model.compile("sgd", "sparse_categorical_crossentropy")
    distloss.prepare(model, replicas=replicas)
    guard = DriftGuard(replicas)
    guard.set_model(model)
    rng = np.random.default_rng(hvd.rank())
    x = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    y = rng.integers(CLASSES, size=ROWS)

    def step() -> None:
        model.train_on_batch(x, y)

    for function in (step, guard.compare):
        function()  # which traces
    pairs = [(seconds_of(step), seconds_of(guard.compare)) for _ in range(PAIRS)]
    steps, comparisons = (
        statistics.median(times) for times in zip(*pairs, strict=True)
    )
    share = comparisons / (comparisons + EVERY * steps)
    result = {
        "processes": hvd.size(),
        "weights": model.count_params(),
        "step_ms": round(1e3 * steps, 1),
        "comparison_ms": round(1e3 * comparisons, 1),
        f"share_of_time_every_{EVERY}": round(share, 5),
    }
    if hvd.rank() == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""What DistributedLoss costs: its step against the same step with the bare Keras loss.

Steps alternate, so that a noisy machine slows both. Prints JSON: the median of the
paired ratios with its quartiles, per number of replicas, counted and static.
"""

import argparse
import json
import platform
import statistics
import time

import keras
import tensorflow as tf
from _replicas import configure, strategy_of

from distloss import DistributedLoss

ROWS, FEATURES, WIDTH, CLASSES = 512, 256, 1024, 10


def step_of(strategy, loss_fn):
    """A traced training step on this strategy, and the seconds that tracing took."""
    with strategy.scope():
        layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(3)]
        model = keras.Sequential([keras.Input((FEATURES,)), *layers])
        model.add(keras.layers.Dense(CLASSES, "softmax"))
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)
    rows = ROWS // strategy.num_replicas_in_sync

    def replica_step():
        x, y = tf.random.normal((rows, FEATURES)), tf.zeros((rows,), tf.int32)
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    @tf.function
    def step():
        return strategy.reduce("SUM", strategy.run(replica_step), axis=None)

    started = time.perf_counter()
    step.get_concrete_function()
    return step, time.perf_counter() - started


def seconds_of(step):
    """Wall time of one step."""
    started = time.perf_counter()
    float(step())
    return time.perf_counter() - started


def comparison(replicas, steps):
    """The cost of each mode on this many replicas."""
    strategy = strategy_of(replicas)
    bare = keras.losses.SparseCategoricalCrossentropy()
    plain, plain_trace = step_of(strategy, bare)
    result = {"replicas": replicas}
    for mode, options in (("counted", {}), ("static", {"global_batch_size": ROWS})):
        ours, trace = step_of(strategy, DistributedLoss(bare, **options))
        seconds_of(plain), seconds_of(ours)
        pairs = [(seconds_of(plain), seconds_of(ours)) for _ in range(steps)]
        low, median, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        result[mode] = {
            "step_ratio": round(median, 4),
            "quartiles": [round(low, 4), round(high, 4)],
            "plain_step_ms": round(1e3 * statistics.median(a for a, _ in pairs), 2),
            "trace_ratio": round(trace / plain_trace, 3),
        }
    return result


def main(arguments=None):
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", default="1,2,4")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)
    counts = [int(count) for count in options.replicas.split(",")]
    configure(max(counts))
    results = {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "machine": platform.machine(),
        "loss": [comparison(count, options.steps) for count in counts],
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

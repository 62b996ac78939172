"""Random sums over virtual replicas that are right: is one of them called wrong?

    python scripts/clean_sums.py --count 10000 --seed 1

Sizes, dtypes, scales from 1e-8 to 1e8, numbers of replicas, and parts that are alike,
that cancel, that are zero, or of very different size, also within one. Prints how many
sums were checked in each dtype, and each false alarm; exit code 1 if there was any.
"""

import argparse
import collections
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from _virtual import configure

DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
COUNTS = (2, 3, 4)  # replicas
KINDS = ("normal", "constant", "alike", "cancelling", "uneven", "heavy", "empty")
LARGEST = 30_000


def drawn(kind, size, index, seed):
    """What replica `index` sends, float64 of magnitude 1 and `size` elements."""
    of_all, own = tf.stack([seed, 0]), tf.stack([seed, 1 + index])
    shared = tf.random.stateless_normal([size], of_all, dtype=tf.float64)
    single = tf.random.stateless_normal([size], own, dtype=tf.float64)
    sign = tf.cast(1 - 2 * (index % 2), tf.float64)
    exponents = tf.random.stateless_uniform([size], own, -4.0, 4.0, dtype=tf.float64)
    return tf.switch_case(
        kind,
        [
            lambda: single,
            lambda: tf.fill([size], single[0]),
            lambda: shared + 1e-3 * single,
            lambda: sign * shared + 1e-6 * single,
            lambda: single * tf.pow(tf.constant(10.0, tf.float64), -4.0 * sign),
            lambda: single * tf.pow(tf.constant(10.0, tf.float64), exponents),
            lambda: single * tf.cast(index % 2, tf.float64),
        ],
    )


def checking(strategy, dtype, compression):
    """A function of (kind, sizes, scale, seed): was a sum of two tensors clean?

    Traced once for all sizes.
    """
    from distloss import StrategyReplicas
    from distloss._formula.checked_sums import checked_sums

    replicas = StrategyReplicas(compression=compression)
    # so that no sum is larger than what there is
    most = float(replicas.sent_as(dtype).max) / 8

    def of_one(kind, sizes, scale, seed):
        index = replicas.index()
        local = [
            tf.cast(
                tf.clip_by_value(
                    scale * drawn(kind, sizes[i], index, seed + i), -most, most
                ),
                dtype,
            )
            for i in range(2)
        ]
        step = tf.cast(seed, tf.int64) + 1
        return checked_sums(replicas, [local], "clean", step).is_clean

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([], tf.float64),
            tf.TensorSpec([], tf.int32),
        ],
    )
    def check(kind, sizes, scale, seed):
        flags = strategy.run(of_one, (kind, sizes, scale, seed))
        return tf.reduce_all(tf.stack(strategy.experimental_local_results(flags)))

    return check


def strategies():
    """One for each number of replicas, each of which sums on one device."""
    ops = tf.distribute.ReductionToOneDevice()
    return {
        count: tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(count)], cross_device_ops=ops
        )
        for count in COUNTS
    }


def false_alarms(count, seed, found=None, compression="none"):
    """Checks `count` sums; returns how many of each dtype, and the alarms."""
    found = found or strategies()
    checks = {
        (replicas, dtype.name): checking(strategy, dtype, compression)
        for replicas, strategy in found.items()
        for dtype in DTYPES
    }
    rng = np.random.default_rng(seed)
    done, alarms = collections.Counter(), []
    for number in range(count):
        replicas, dtype = list(checks)[number % len(checks)]
        kind = int(rng.integers(len(KINDS)))
        sizes = (LARGEST ** rng.random(2)).astype("int32")
        scale = 10.0 ** rng.uniform(-8, 8)
        own_seed = int(rng.integers(1 << 30))
        if not checks[replicas, dtype](kind, sizes, scale, own_seed):
            alarms.append(
                (replicas, dtype, KINDS[kind], sizes.tolist(), scale, own_seed)
            )
        done[dtype] += 1
    return done, alarms


def main(arguments=None):
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compression", default="none", help="of what is sent")
    options = parser.parse_args(arguments)
    configure(max(COUNTS))
    done, alarms = false_alarms(
        options.count, options.seed, compression=options.compression
    )
    for dtype, count in done.items():
        print(f"{dtype}: {count} sums")
    for alarm in alarms:
        print("false alarm:", *alarm)
    print(f"{len(alarms)} false alarms")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())

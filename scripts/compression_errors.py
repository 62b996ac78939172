"""What sums over replicas lose where gradients are sent in 16 bits.

    python scripts/compression_errors.py

Prints |sum - exact| / |exact| of sums of drawn gradients over 2, 4 and 8 virtual
replicas, exact by NumPy in float64, where replicas have little but noise and where they
are nearly alike; what comes back of large and of small numbers; and how digits are told
apart after training on 4 replicas from three seeds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _virtual import configure, strategy_of

COMPRESSIONS = ("none", "bf16", "fp16")
COUNTS = (2, 4, 8)
KINDS = {"noise": (0.0, 1.0), "alike": (1.0, 0.1)}  # size of what is shared, and of it
SIZE = 100_000
NUMBERS = (1e38, 65_520.0, 65_504.0, 6e-8, 2e-8, 1e-30)
SEEDS, EPOCHS = 3, 10


def summed(strategy, compression, parts):
    """The sum of `parts`, one for each replica."""
    from distloss import StrategyReplicas

    replicas = StrategyReplicas(compression=compression)

    @tf.function
    def run(every):
        return strategy.run(
            lambda: replicas.sum_gradients([every[replicas.index()]])[0]
        )

    return strategy.experimental_local_results(run(parts))[0].numpy()


def error(strategy, compression, kind):
    """|sum - exact| / |exact| of gradients of a kind."""
    random = np.random.default_rng(1)
    shared, own = KINDS[kind]
    size = (strategy.num_replicas_in_sync, SIZE)
    parts = shared * random.normal(size=SIZE) + own * random.normal(size=size)
    parts = tf.constant(parts, tf.float32)
    exact = parts.numpy().sum(0, dtype="float64")
    off = summed(strategy, compression, parts) - exact
    return np.linalg.norm(off) / np.linalg.norm(exact)


def came_back(strategy, compression):
    """What `NUMBERS` of one replica are after the sum, all others having zeros."""
    parts = np.zeros((strategy.num_replicas_in_sync, len(NUMBERS)), "float32")
    parts[0] = NUMBERS
    return summed(strategy, compression, tf.constant(parts))


def digits(strategy, compression, seed):
    """The loss on digits that were trained on, and the part of others told right."""
    from sklearn.datasets import load_digits

    from distloss import StrategyReplicas, prepare

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        layers = [keras.Input((64,)), keras.layers.Dense(64, "relu")]
        model = keras.Sequential([*layers, keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, jit_compile=False)
        prepare(model, replicas=StrategyReplicas(compression=compression))
    losses = model.fit(x[:1400], y[:1400], batch_size=56, epochs=EPOCHS, verbose=0)
    is_right = model.predict(x[1400:], verbose=0).argmax(1) == y[1400:]
    return losses.history["loss"][-1], is_right.mean()


def rows_of(strategies):
    """The rows of the table of errors: kind, compression, an error for each count."""
    return [
        (kind, compression, [f"{error(s, compression, kind):.1e}" for s in strategies])
        for kind in KINDS
        for compression in COMPRESSIONS
    ]


def main():
    """The command."""
    configure(max(COUNTS))
    print("replicas:", *COUNTS)
    for kind, compression, errors in rows_of([strategy_of(n) for n in COUNTS]):
        print(kind, compression, *errors)
    four = strategy_of(4)
    for compression in COMPRESSIONS:
        numbers = (f"{x:.6g}" for x in came_back(four, compression))
        print("came back,", f"{compression}:", *numbers)
    for compression in COMPRESSIONS:
        found = [digits(four, compression, seed) for seed in range(SEEDS)]
        losses, right = zip(*found, strict=True)
        print(
            "digits,",
            f"{compression}: loss",
            *(f"{loss:.4f}" for loss in losses),
            "told right",
            *(f"{part:.3f}" for part in right),
        )


if __name__ == "__main__":
    main()

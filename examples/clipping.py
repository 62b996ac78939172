"""Clipping before the sum: the larger gradients of different replicas cancel wrongly.

Four replicas hold the gradients +10, -9, 0 and 0. Their sum is 1, and `clipnorm=1`
leaves it as it is: a step of 1. Keras 3 clips on each replica first, +1 and -1, and
then adds: a step of 0. `DistributedOptimizer` sums, then clips.

Printed for both: the step that one weight takes, learning rate 1.
"""

import keras
import tensorflow as tf
from _replicas import four_replicas

from distloss import DistributedOptimizer

LOCAL_GRADIENTS = (10.0, -9.0, 0.0, 0.0)


def plain():
    return keras.optimizers.SGD(1.0, clipnorm=1.0)


def step_of(strategy, make_optimizer):
    """How far the weight moves, against the gradient."""
    with strategy.scope():
        weight = keras.Variable(0.0)
        optimizer = make_optimizer()
        optimizer.build([weight])

    @tf.function
    def step():
        def replica_step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.constant(LOCAL_GRADIENTS)[replica]
            optimizer.apply_gradients([(gradient, weight)])

        strategy.run(replica_step)

    step()
    return -float(weight.numpy())


def main():
    strategy = four_replicas()
    clipped_first = step_of(strategy, plain)
    summed_first = step_of(strategy, lambda: DistributedOptimizer(plain()))
    print(f"sum of the gradients: {sum(LOCAL_GRADIENTS):.1f}")
    print(f"plain Keras, clips then sums: a step of {clipped_first:.1f}")
    print(f"DistributedOptimizer, sums then clips: a step of {summed_first:.1f}")
    if abs(clipped_first) > 1e-6:
        raise SystemExit("plain Keras was expected to take no step")
    if abs(summed_first - 1) > 1e-6:
        raise SystemExit("DistributedOptimizer was expected to take a step of 1")


if __name__ == "__main__":
    main()

"""Sums over pairs of replicas: who of them gets wrong ones?"""

from __future__ import annotations

import itertools

import tensorflow as tf

from distloss.replicas.base import Replicas

_SIZE = 1 << 16
_LARGEST = 1000  # so that sums of all replicas are exact in float32


def pairs_with_wrong_sums(
    replicas: Replicas, strategy: tf.distribute.Strategy
) -> tuple[tuple[int, int], ...]:
    """The pairs of replicas whose sum somebody gets wrong.

    Each takes the way that gradients take; all others send zeros. Integers are summed,
    whose sums are exact. To be called outside of replicas.
    """

    def is_right(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        mine = replicas.index()
        parts = [_integers_of(index) for index in (first, second)]
        is_one = tf.logical_or(mine == first, mine == second)
        local = tf.where(is_one, _integers_of(mine), tf.zeros([_SIZE]))
        [total] = replicas.sum_gradients([local], "pair")
        return tf.reduce_all(tf.convert_to_tensor(total) == tf.add_n(parts))

    @tf.function(autograph=False)
    def are_right(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        flags = strategy.run(is_right, (first, second))
        return tf.reduce_all(tf.stack(strategy.experimental_local_results(flags)))

    with strategy.scope():
        count = replicas.count()
    return tuple(
        pair
        for pair in itertools.combinations(range(count), 2)
        if not are_right(*map(tf.constant, pair))
    )


def _integers_of(index: tf.Tensor) -> tf.Tensor:
    seed = tf.stack([index, 1])
    drawn = tf.random.stateless_uniform(
        [_SIZE], seed, -_LARGEST, _LARGEST, dtype=tf.int32, alg="philox"
    )
    return tf.cast(drawn, tf.float32)

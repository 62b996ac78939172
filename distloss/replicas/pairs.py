"""Sums over pairs of replicas: who of them gets wrong ones?"""

from __future__ import annotations

import functools
import itertools

import tensorflow as tf

from distloss.replicas.base import Replicas
from distloss.replicas.horovod import HorovodReplicas

_SIZE = 1 << 16
_LARGEST = 1000  # so that sums of all replicas are exact in float32
_LARGEST_OF_INEXACT = 100  # so that averages in float16 are off by less than a half


def pairs_with_wrong_sums(
    replicas: Replicas, strategy: tf.distribute.Strategy
) -> tuple[tuple[int, int], ...]:
    """The pairs of replicas whose sum somebody gets wrong.

    Each takes the way that gradients take; all others send zeros. Integers are summed,
    whose sums are exact. To be called outside of replicas.
    """

    @tf.function(autograph=False)
    def are_right(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        is_right = functools.partial(_is_right, replicas)
        flags = strategy.run(is_right, (first, second))
        return tf.reduce_all(tf.stack(strategy.experimental_local_results(flags)))

    with strategy.scope():
        count = replicas.count()
    return tuple(
        pair
        for pair in itertools.combinations(range(count), 2)
        if not are_right(*map(tf.constant, pair))
    )


def pairs_of_processes_with_wrong_sums(
    replicas: HorovodReplicas,
) -> tuple[tuple[int, int], ...]:
    """The same of Horovod's processes, which all must call it together."""
    pairs = list(itertools.combinations(range(replicas.count()), 2))
    is_right = tf.function(functools.partial(_is_right, replicas), autograph=False)
    mine = [is_right(*map(tf.constant, pair)) for pair in pairs]
    every = replicas.gathered(tf.cast(tf.stack([mine]), tf.int32), "pairs").numpy()
    are_right = every.all(axis=0)
    return tuple(
        pair for pair, right in zip(pairs, are_right, strict=True) if not right
    )


def _is_right(replicas: Replicas, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    largest = _LARGEST if replicas.sums_are_exact else _LARGEST_OF_INEXACT
    mine = replicas.index()
    parts = [_integers_of(index, largest) for index in (first, second)]
    is_one = tf.logical_or(mine == first, mine == second)
    local = tf.where(is_one, _integers_of(mine, largest), tf.zeros([_SIZE]))
    [total] = replicas.sum_gradients([local], "pair")
    total = tf.round(replicas.as_sum(tf.convert_to_tensor(total)))
    return tf.reduce_all(total == tf.add_n(parts))


def _integers_of(index: tf.Tensor, largest: int) -> tf.Tensor:
    seed = tf.stack([index, 1])
    drawn = tf.random.stateless_uniform(
        [_SIZE], seed, -largest, largest, dtype=tf.int32, alg="philox"
    )
    return tf.cast(drawn, tf.float32)

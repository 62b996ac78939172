"""One replica of a strategy that is, for a while, the only one.

A step in here takes the whole batch. It reads and writes the variables of the first
replica, is told that there is one replica, and what it sums over replicas stays as it
is: what the same step would do on one device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf


class _Thread(threading.local):
    is_alone = False


_thread = _Thread()


class _Alone(tf.distribute.ReplicaContext):
    """Replica context without others; what TensorFlow merges, it merges of this one."""

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        """`value`, the sum and the mean of one."""
        return tf.nest.map_structure(tf.identity, value)

    def all_gather(self, value: Any, axis: int, options: Any = None) -> Any:
        """`value`, all that there is."""
        return tf.nest.map_structure(tf.identity, value)


def is_alone() -> bool:
    """Whether this thread is in `alone`."""
    return _thread.is_alone


@contextlib.contextmanager
def alone(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """In which the first replica of `strategy` is the only one, on this thread."""
    was_alone, _thread.is_alone = _thread.is_alone, True
    try:
        if strategy.num_replicas_in_sync == 1 and not tf.distribute.has_strategy():
            yield
            return
        with strategy.scope(), _one_of(strategy), _Alone(strategy, 0):
            yield
    finally:
        _thread.is_alone = was_alone


@contextlib.contextmanager
def _one_of(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets strategies count and call one replica, on threads that are alone."""
    of_strategy = _owner(tf.distribute.Strategy, "num_replicas_in_sync")
    of_extended = _owner(type(strategy.extended), "call_for_each_replica")
    counted = vars(of_strategy)["num_replicas_in_sync"]
    called = of_extended.call_for_each_replica

    def count(this: Any) -> int:
        return 1 if _thread.is_alone else counted.fget(this)

    def call(this: Any, fn: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _thread.is_alone:
            return called(this, fn, args, kwargs)
        with _Alone(strategy, 0):
            return fn(*args, **(kwargs or {}))

    of_strategy.num_replicas_in_sync = property(count)
    of_extended.call_for_each_replica = call
    try:
        yield
    finally:
        of_strategy.num_replicas_in_sync = counted
        of_extended.call_for_each_replica = called


def _owner(cls: Any, name: str) -> Any:
    """The class from which `cls` has an attribute."""
    return next(base for base in cls.__mro__ if name in vars(base))

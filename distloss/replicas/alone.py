"""One replica of a strategy that is, for a while, the only one.

A step in here takes the whole batch. It reads and writes the variables of the first
replica, is told that there is one replica, and what it sums over replicas stays as it
is: what the same step would do on one device.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from distloss._errors import ContextError
from distloss.replicas.horovod_alone import horovod_of_one


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
    """In which the first replica of `strategy` is the only one, on this thread.

    Of Horovod, too: what it sums over processes stays as it is.
    """
    count = strategy.num_replicas_in_sync
    was_alone, _thread.is_alone = _thread.is_alone, True
    try:
        with horovod_of_one(is_alone):
            if count == 1 and not tf.distribute.has_strategy():
                yield
                return
            has_others = count > len(strategy.extended.worker_devices)
            create = _creator_that_refuses if has_others else contextlib.nullcontext
            with strategy.scope(), _one_of(strategy), _Alone(strategy, 0), create():
                yield
    finally:
        _thread.is_alone = was_alone


def _creator_that_refuses() -> Any:
    """In which no worker creates a variable: it would wait for a value from others."""
    return tf.variable_creator_scope(_refuse_creation)


def _refuse_creation(_creator: Any, **options: Any) -> Any:
    raise ContextError(
        "Expected a step whose variables are there before it runs. Got one that "
        f"creates {options.get('name')!r} in its first call. Create it before."
    )


@contextlib.contextmanager
def _one_of(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets strategies count, call and sum one replica, on threads that are alone."""
    of_strategy = _owner(tf.distribute.Strategy, "num_replicas_in_sync")
    counted = vars(of_strategy)["num_replicas_in_sync"]

    def count(this: Any) -> int:
        return 1 if _thread.is_alone else counted.fget(this)

    def call(_this: Any, fn: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _Alone(strategy, 0):
            return fn(*args, **(kwargs or {}))

    def same(_this: Any, _reduce_op: Any, value: Any, *_: Any, **__: Any) -> Any:
        return value

    def same_of_pairs(_this: Any, _reduce_op: Any, pairs: Any, *_: Any) -> Any:
        return [value for value, _destination in pairs]

    extended = type(strategy.extended)
    of_strategy.num_replicas_in_sync = property(count)
    try:
        with (
            _while_alone(extended, "call_for_each_replica", call),
            _while_alone(extended, "_replica_ctx_all_reduce", same),
            _while_alone(extended, "reduce_to", same),
            _while_alone(extended, "batch_reduce_to", same_of_pairs),
        ):
            yield
    finally:
        of_strategy.num_replicas_in_sync = counted


@contextlib.contextmanager
def _while_alone(cls: Any, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """`stand_in` as a method of `cls`, on threads that are alone."""
    owner = _owner(cls, name)
    method = vars(owner)[name]

    @functools.wraps(method)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (stand_in if _thread.is_alone else method)(*args, **kwargs)

    setattr(owner, name, either)
    try:
        yield
    finally:
        setattr(owner, name, method)


def _owner(cls: Any, name: str) -> Any:
    """The class from which `cls` has an attribute."""
    return next(base for base in cls.__mro__ if name in vars(base))

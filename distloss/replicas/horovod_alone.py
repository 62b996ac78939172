"""Horovod of one process, for a step that takes the whole batch alone.

Horovod's functions of Python ask a library of operations and one of numbers, which are
exchanged for a while by stand-ins:
https://github.com/horovod/horovod/blob/v0.28.1/horovod/tensorflow/mpi_ops.py
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from distloss._keras.private_names.of_others import (
    BASICS,
    BASICS_OF_SETS,
    LIBRARY,
    LIBRARY_OF_NUMBERS,
)
from distloss._keras.private_names.private_name import PrivateName
from distloss.replicas.horovod_calls import horovod, processes


@contextlib.contextmanager
def horovod_of_one(is_alone: Callable[[], bool]) -> Iterator[None]:
    """In which Horovod has one process, for threads of which `is_alone()`."""
    if processes() == 1:
        yield
        return
    horovod()  # raises where it is not there
    with (
        _exchanged(LIBRARY, LIBRARY.owners(), _OPERATIONS, is_alone),
        _exchanged(LIBRARY_OF_NUMBERS, BASICS.found(), _NUMBERS, is_alone),
        # By its own method: that of the library also tells how long a list of ranks is.
        _exchanged(BASICS_OF_SETS, BASICS_OF_SETS.owners(), _OF_SETS, is_alone),
    ):
        yield


@contextlib.contextmanager
def _exchanged(
    name: PrivateName,
    owner: Any,
    stand_ins: dict[str, Callable[..., Any]],
    is_alone: Callable[[], bool],
) -> Iterator[None]:
    before = name.of(owner)
    name.put(owner, _Either(before, stand_ins, is_alone))
    try:
        yield
    finally:
        name.put(owner, before)


class _Either:
    """A library, of which some functions are others on threads that are alone."""

    def __init__(
        self,
        library: Any,
        stand_ins: dict[str, Callable[..., Any]],
        is_alone: Callable[[], bool],
    ) -> None:
        self._library, self._stand_ins = library, stand_ins
        self._is_alone = is_alone

    def __getattr__(self, name: str) -> Any:
        if name in self._stand_ins and self._is_alone():
            return self._stand_ins[name]
        return getattr(self._library, name)


def _sum(
    tensor: Any,
    *,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    **_: Any,
) -> tf.Tensor:
    # An average of one, too, but for these factors is what it is made of.
    factor = prescale_factor * postscale_factor
    tensor = tf.identity(tensor)
    return tensor if factor == 1.0 else tensor * tf.cast(factor, tensor.dtype)


def _sums(tensors: Any, **options: Any) -> list[tf.Tensor]:
    return [_sum(tensor, **options) for tensor in tensors]


def _same(tensor: Any, **_: Any) -> tf.Tensor:
    return tf.identity(tensor)


def _number(value: int) -> Callable[..., tf.Tensor]:
    return lambda *_, **__: tf.constant(value)


# What others send, and which process this is; joining waits for nobody.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "horovod_allreduce": _sum,
    "horovod_grouped_allreduce": _sums,
    "horovod_reducescatter": _sum,
    "horovod_grouped_reducescatter": _sums,
    "horovod_allgather": _same,
    "horovod_grouped_allgather": lambda tensors, **_: [*map(tf.identity, tensors)],
    "horovod_broadcast": _same,
    "horovod_broadcast_inplace": lambda variables, **_: variables,
    "horovod_broadcast_inplace_resource": lambda *_, **__: tf.no_op(),
    "horovod_alltoall": lambda tensor, splits, **_: (tf.identity(tensor), splits),
    "horovod_size": _number(1),
    "horovod_local_size": _number(1),
    "horovod_process_set_included": _number(1),
    "horovod_rank": _number(0),
    "horovod_local_rank": _number(0),
    "horovod_join": _number(0),
}
_NUMBERS: dict[str, Callable[..., int]] = {
    "horovod_size": lambda: 1,
    "horovod_local_size": lambda: 1,
    "horovod_cross_size": lambda: 1,
    "horovod_rank": lambda: 0,
    "horovod_local_rank": lambda: 0,
    "horovod_cross_rank": lambda: 0,
}
_OF_SETS: dict[str, Callable[..., int]] = {
    "_process_set_size": lambda _set_id: 1,
    "_process_set_rank": lambda _set_id: 0,
}

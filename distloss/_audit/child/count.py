"""How many replicas a script is told that there are.

One that computes the size of its batch from their number has another batch on each
number. To compare the same batch, it hears the same number everywhere while it prepares
its data; the training step itself knows how many replicas there are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib

from distloss._audit.child.patches import replaced
from distloss._audit.child.places import is_of_user


class Counted:
    """Notes whether a script asks for the number of replicas, and what it is told.

    Args:
      told: what it hears; None for the number that there is.

    Attributes:
      was_asked: whether it asked.
    """

    def __init__(self, told: int | None) -> None:
        self._told, self._prepares = told, False
        self.was_asked = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In here a script prepares its data; afterwards a step runs."""
        base = distribute_lib.StrategyBase
        real = base.num_replicas_in_sync.fget

        def number(strategy: Any) -> int:
            count = int(real(strategy))
            if not is_of_user(sys._getframe(1)):
                return count
            self.was_asked = True
            return count if self._told is None else Told(self._told, count, self._is_on)

        self._prepares = True
        try:
            with replaced(base, num_replicas_in_sync=property(number)):
                yield
        finally:
            self._prepares = False

    def _is_on(self) -> bool:
        return self._prepares


class Told(int):
    """A number that a script was told; in a training step it is what it really is."""

    _real: float
    _is_on: Callable[[], bool]

    def __new__(cls, told: int, real: float, is_on: Callable[[], bool]) -> Told:
        """A whole number, with what it really is, and whether it is that now."""
        made = super().__new__(cls, told)
        made._real, made._is_on = real, is_on
        return made

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        """What TensorFlow computes with."""
        return _as_tensor(self, int(self), dtype, name)

    def __rtruediv__(self, other: Any) -> Any:
        """A share of one replica, such as 1 / strategy.num_replicas_in_sync."""
        if not isinstance(other, (int, float)):
            return NotImplemented
        return ToldShare(other / int(self), other / self._real, self._is_on)

    def __rfloordiv__(self, other: Any) -> Any:
        """The same in whole numbers, such as the rows of a replica."""
        if not isinstance(other, int):
            return NotImplemented
        return Told(other // int(self), other // self._real, self._is_on)


class ToldShare(float):
    """The same for a share."""

    _real: float
    _is_on: Callable[[], bool]

    def __new__(cls, told: float, real: float, is_on: Callable[[], bool]) -> ToldShare:
        """A number, with what it really is, and whether it is that now."""
        made = super().__new__(cls, told)
        made._real, made._is_on = real, is_on
        return made

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        """What TensorFlow computes with."""
        return _as_tensor(self, float(self), dtype, name)


def _as_tensor(
    number: Told | ToldShare, told: float, dtype: Any, name: str | None
) -> tf.Tensor:
    value = told if number._is_on() else number._real
    return tf.constant(value, dtype or tf.as_dtype(type(told)), name=name)

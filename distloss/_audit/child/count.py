"""How many replicas a script is told that there are.

One that computes the size of its batch from their number has another batch on each
number. To compare the same batch, it hears the same number everywhere while it prepares
its data; the training step itself knows how many replicas there are.
"""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib

from distloss._audit.child.patches import HOROVODS, replaced, when_imported
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
        number = self._instead_of(base.num_replicas_in_sync.fget)
        self._prepares = True
        try:
            with contextlib.ExitStack() as stack:
                number_of = {"num_replicas_in_sync": property(number)}
                stack.enter_context(replaced(base, **number_of))

                def watch(horovod: Any) -> None:
                    size = self._instead_of(horovod.size)
                    stack.enter_context(replaced(horovod, size=size))

                for name in HOROVODS:
                    stack.enter_context(when_imported(name, watch))
                yield
        finally:
            self._prepares = False

    def _instead_of(self, real: Callable[..., int]) -> Callable[..., Any]:
        """What tells the user the number that was told, and others the real one."""

        def number(*args: Any, **more: Any) -> Any:
            count = int(real(*args, **more))
            if not is_of_user(sys._getframe(1)):
                return count
            self.was_asked = True
            return count if self._told is None else Told(self._told, count, self._is_on)

        return number

    def _is_on(self) -> bool:
        return self._prepares


class _Number:
    """A number that was told; where a step computes with it, it is what it really is.

    No number of Python, which would answer a division by itself without a word.

    Args:
      told: what is heard.
      real: what it really is.
      is_on: whether it is the former now.
    """

    def __init__(self, told: Any, real: Any, is_on: Callable[[], bool]) -> None:
        self.told, self.real, self.is_on = told, real, is_on

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        """What TensorFlow computes with."""
        value = self.told if self.is_on() else self.real
        # The dtype that TensorFlow takes such a number as, if it does not ask for one.
        return tf.constant(value, dtype or tf.constant(self.told).dtype, name=name)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.told, dtype)

    def __float__(self) -> float:
        return float(self.told)

    def __int__(self) -> int:
        return int(self.told)

    def __format__(self, form: str) -> str:
        return format(self.told, form)

    def __repr__(self) -> str:
        return repr(self.told)

    def __bool__(self) -> bool:
        return bool(self.told)

    def __hash__(self) -> int:
        return hash(self.told)

    def __rtruediv__(self, other: Any) -> Any:
        if tf.is_tensor(other):
            return other / self.__tf_tensor__(other.dtype)
        return Share(other / self.told, other / self.real, self.is_on)

    def __rfloordiv__(self, other: Any) -> Any:
        if tf.is_tensor(other):
            return other // self.__tf_tensor__(other.dtype)
        return Told(other // self.told, other // self.real, self.is_on)


class Told(_Number):
    """A whole number: what comes of it is told, too, but for a share of one replica."""

    def __index__(self) -> int:
        return int(self.told)


class Share(_Number):
    """A share, such as 1 / strategy.num_replicas_in_sync, or some times that."""

    def __mul__(self, other: Any) -> Any:
        if tf.is_tensor(other):
            return self.__tf_tensor__(other.dtype) * other
        return Share(self.told * other, self.real * other, self.is_on)

    def __rmul__(self, other: Any) -> Any:
        return self * other


def _as_told(compute: Callable[..., Any], *, reflected: bool) -> Callable[..., Any]:
    """An operator that sees what was told; with a tensor, what is so in a step."""

    def operate(this: _Number, *others: Any) -> Any:
        tensors = [one for one in others if tf.is_tensor(one)]
        mine = this.__tf_tensor__(tensors[0].dtype) if tensors else this.told
        both = [mine, *(o.told if isinstance(o, _Number) else o for o in others)]
        return compute(*(reversed(both) if reflected else both))

    return operate


_REFLECTED = ("add", "sub", "mul", "mod", "pow")
_OTHERS = ("truediv", "floordiv", "eq", "ne", "lt", "le", "gt", "ge", "neg", "abs")
for _class in (Told, Share):
    for _name in (*_REFLECTED, *_OTHERS):
        if f"__{_name}__" not in vars(_class):
            _own = _as_told(getattr(operator, _name), reflected=False)
            setattr(_class, f"__{_name}__", _own)
    for _name in _REFLECTED:
        if f"__r{_name}__" not in vars(_class):
            _own = _as_told(getattr(operator, _name), reflected=True)
            setattr(_class, f"__r{_name}__", _own)

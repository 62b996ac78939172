"""Records the gradients that reach an update rule, on each replica."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer


def components(variable: Any) -> list[tf.Variable]:
    """The variable of each replica that `variable` consists of."""
    inner = variable.value if isinstance(variable, keras.Variable) else variable
    return list(getattr(inner, "values", None) or [inner])


def dense(gradient: Any, dtype: tf.DType) -> tf.Tensor:
    """A gradient as a tensor; `tf.IndexedSlices` are added up."""
    return tf.cast(tf.convert_to_tensor(gradient), dtype)


class Recorder:
    """The gradients that reach an update rule, per variable and replica."""

    def __init__(self) -> None:
        self._cells: dict[int, tuple[tf.Variable, tf.Variable]] = {}
        self._rows: list[list[tf.Variable]] = []
        self._thread = threading.local()

    def watch(self, variables: Sequence[Any]) -> None:
        """Makes room for the gradients of `variables`; forgets others."""
        watched = [component for row in self._rows for component in row]
        wanted = [component for v in variables for component in components(v)]
        if list(map(id, watched)) == list(map(id, wanted)):
            return  # another trace may report to these already
        self._cells, self._rows = {}, []
        for variable in variables:
            row = []
            for component in components(variable):
                with tf.device(component.device):
                    cell = tf.Variable(tf.zeros(component.shape, _wide(component)))
                    count = tf.Variable(0, dtype=tf.int64)
                self._cells[id(component)] = (cell, count)
                row.append(component)
            self._rows.append(row)

    def clear(self) -> None:
        """Before a probe."""
        for cell, count in self._cells.values():
            cell.assign(tf.zeros_like(cell))
            count.assign(0)

    def seen(self, index: int) -> bool:
        """Whether an update of this variable was recorded since `clear`."""
        cells = [self._cells[id(component)] for component in self._rows[index]]
        return any(int(count.numpy()) > 0 for _, count in cells)

    def gradients(self, index: int) -> list[np.ndarray]:
        """What arrived, on each replica."""
        return [self._cells[id(c)][0].numpy() for c in self._rows[index]]

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        return {id(v) for pair in self._cells.values() for v in pair}

    def patch(self) -> None:
        """Lets every optimizer class that exists report to this recorder."""
        for base in _optimizer_bases():
            for cls in family(base):
                original = vars(cls).get("update_step")
                if original is not None and not hasattr(original, "_audited"):
                    cls.update_step = self._recording(original)

    def _recording(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def update_step(
            optimizer: Any, gradient: Any, variable: Any, *args: Any, **kwargs: Any
        ) -> Any:
            outermost = not getattr(self._thread, "inside", False)
            if outermost:
                self._record(gradient, variable)
            self._thread.inside = True
            try:
                return original(optimizer, gradient, variable, *args, **kwargs)
            finally:
                if outermost:
                    self._thread.inside = False

        update_step._audited = True  # type: ignore[attr-defined]
        return tf.autograph.experimental.do_not_convert(update_step)

    def _record(self, gradient: Any, variable: Any) -> None:
        inner = variable.value if isinstance(variable, keras.Variable) else variable
        if id(inner) not in self._cells and hasattr(inner, "_get"):
            inner = inner._get()  # this replica's own, in replica context
        if gradient is None or id(inner) not in self._cells:
            return
        cell, count = self._cells[id(inner)]
        cell.assign(dense(gradient, cell.dtype))
        count.assign_add(1)


def _wide(variable: tf.Variable) -> tf.DType:
    return tf.float64 if variable.dtype == tf.float64 else tf.float32


def _optimizer_bases() -> list[Any]:
    found: list[Any] = [BaseOptimizer]
    legacy = sys.modules.get("tf_keras")
    if legacy is not None:
        found.append(legacy.optimizers.Optimizer)
    return found


def family(cls: Any) -> Iterator[Any]:
    """A class and all below it that exist now."""
    yield cls
    for child in cls.__subclasses__():
        yield from family(child)

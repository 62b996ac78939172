"""Records gradients, on each replica: what tapes give, what reaches an update rule."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._audit.child.slices import Slices
from distloss._keras.private_names.of_audit import BASE_OPTIMIZER
from distloss._keras.variables import in_tensorflow

MOST_TAPES = 16  # of one step, of which the loss is kept


def components(variable: Any) -> list[tf.Variable]:
    """The variable of each replica that `variable` consists of."""
    inner = in_tensorflow(variable)
    return list(getattr(inner, "values", None) or [inner])


def dense(gradient: Any, dtype: tf.DType) -> tf.Tensor:
    """A gradient as a tensor; `tf.IndexedSlices` are added up."""
    return tf.cast(tf.convert_to_tensor(gradient), dtype)


class Recorder:
    """The gradients that reach an update rule, per variable and replica.

    Attributes:
      slices: what counts and adds up slices of sparse gradients.
      owners: the id of the optimizer that updates a variable, by the variable's index.
      tapes: the most gradients of one variable that a replica takes in one step.
      asked: the ids of watched variables of which a tape was asked for a gradient.
      given: of those, the ones of which it gave any.
    """

    def __init__(self, slices: Slices) -> None:
        self.slices = slices
        self.owners: dict[int, int] = {}
        self.tapes = 0
        self.asked: set[int] = set()
        self.given: set[int] = set()
        self._cells: dict[int, tuple[tf.Variable, tf.Variable]] = {}
        self._first: dict[int, tf.Variable] = {}  # what the first tape gave
        self._sums: dict[int, tf.Variable] = {}  # what all tapes gave
        self._losses = [_cell([], tf.float64) for _ in range(MOST_TAPES)]
        self._sizes = [_cell([], tf.float64) for _ in range(MOST_TAPES)]
        self._rows: list[list[tf.Variable]] = []
        self._thread = threading.local()

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.taken = {}
        self._thread.tapes = 0

    def watch(self, variables: Sequence[Any]) -> None:
        """Makes room for the gradients of `variables`; forgets others."""
        watched = [component for row in self._rows for component in row]
        wanted = [component for v in variables for component in components(v)]
        if list(map(id, watched)) == list(map(id, wanted)):
            return  # another trace may report to these already
        self._cells, self._first, self._sums, self._rows = {}, {}, {}, []
        for variable in variables:
            row = []
            for component in components(variable):
                with tf.device(component.device):
                    cell = _cell(component.shape, _wide(component))
                    count = _cell([], tf.int64)
                    first = _cell(component.shape, _wide(component))
                    total = _cell(component.shape, _wide(component))
                self._cells[id(component)] = (cell, count)
                self._first[id(component)] = first
                self._sums[id(component)] = total
                row.append(component)
            self._rows.append(row)

    def clear(self) -> None:
        """Before a probe."""
        for cell, count in self._cells.values():
            cell.assign(tf.zeros_like(cell))
            count.assign(0)
        for cell in self._of_tapes():
            cell.assign(tf.zeros_like(cell))

    def seen(self, index: int) -> bool:
        """Whether an update of this variable was recorded since `clear`."""
        cells = [self._cells[id(component)] for component in self._rows[index]]
        return any(int(count.numpy()) > 0 for _, count in cells)

    def gradients(self, index: int) -> list[np.ndarray]:
        """What arrived, on each replica."""
        return [self._cells[id(c)][0].numpy() for c in self._rows[index]]

    def of_tapes(self, index: int) -> np.ndarray:
        """The sum over replicas of what the tapes of each gave.

        Of those between which weights move, the first: others are of another loss.
        """
        cells = self._first if self.moves_weights() else self._sums
        return sum(cells[id(c)].numpy() for c in self._rows[index])

    def losses(self) -> list[float]:
        """Of what gradients of watched variables were taken, one for each tape."""
        return [float(cell.numpy()) for cell in self._losses[: self.tapes]]

    def moves_weights(self) -> bool:
        """Whether the weights were others at one tape than at the next."""
        return len({float(cell.numpy()) for cell in self._sizes[: self.tapes]}) > 1

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        cells = {id(v) for pair in self._cells.values() for v in pair}
        others = {id(v) for v in self._of_tapes()}
        return cells | others | self.slices.own_variables()

    def _of_tapes(self) -> tuple[tf.Variable, ...]:
        of_variables = (*self._first.values(), *self._sums.values())
        return (*of_variables, *self._losses, *self._sizes)

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
                gradient = self.slices.seen(gradient)
                self._record(gradient, variable, optimizer)
            self._thread.inside = True
            try:
                return original(optimizer, gradient, variable, *args, **kwargs)
            finally:
                if outermost:
                    self._thread.inside = False

        update_step._audited = True  # type: ignore[attr-defined]
        return tf.autograph.experimental.do_not_convert(update_step)

    def _record(self, gradient: Any, variable: Any, optimizer: Any) -> None:
        component = self._component(variable)
        if gradient is None or component is None:
            return
        cell, count = self._cells[id(component)]
        cell.assign(dense(gradient, cell.dtype))
        count.assign_add(1)
        for index, row in enumerate(self._rows):
            if any(component is one for one in row):
                self.owners[index] = id(optimizer)

    def _component(self, variable: Any) -> Any:
        """The watched variable of this replica that `variable` is, or None."""
        inner = in_tensorflow(variable)
        if id(inner) not in self._cells and hasattr(inner, "_get"):
            inner = inner._get()  # this replica's own, in replica context
        return inner if id(inner) in self._cells else None

    def record_tape(self, target: Any, sources: Any, gradients: Any) -> None:
        """Notes what a tape of this replica gave, where it was asked for weights."""
        pairs = zip(tf.nest.flatten(sources), tf.nest.flatten(gradients), strict=True)
        watched = [(self._component(v), g) for v, g in pairs]
        watched = [(component, g) for component, g in watched if component is not None]
        self.asked |= {id(component) for component, _ in watched}
        found = [(component, g) for component, g in watched if g is not None]
        self.given |= {id(component) for component, _ in found}
        if not found:
            return
        if not hasattr(self._thread, "taken"):
            self.restart()
        for component, gradient in found:
            taken = self._thread.taken.get(id(component), 0)
            cell = self._sums[id(component)]
            added = dense(gradient, cell.dtype)
            cell.assign_add(added)
            if not taken:
                self._first[id(component)].assign(added)
            self._thread.taken[id(component)] = taken + 1
            self.tapes = max(self.tapes, taken + 1)
        self._record_loss(target, [component for component, _ in found])

    def _record_loss(self, target: Any, weights: list[tf.Variable]) -> None:
        number = self._thread.tapes
        self._thread.tapes += 1
        parts = [tf.reduce_sum(tf.cast(t, tf.float64)) for t in tf.nest.flatten(target)]
        if number < MOST_TAPES and parts:
            self._losses[number].assign(tf.add_n(parts))
            squares = [tf.reduce_sum(tf.cast(w, tf.float64) ** 2) for w in weights]
            self._sizes[number].assign(tf.add_n(squares))


def _cell(shape: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(tf.zeros(shape, dtype), trainable=False)


def _wide(variable: tf.Variable) -> tf.DType:
    return tf.float64 if variable.dtype == tf.float64 else tf.float32


def _optimizer_bases() -> list[Any]:
    found: list[Any] = [BASE_OPTIMIZER.found()]
    legacy = sys.modules.get("tf_keras")
    if legacy is not None:
        found.append(legacy.optimizers.Optimizer)
    return found


def family(cls: Any) -> Iterator[Any]:
    """A class and all below it that exist now."""
    yield cls
    for child in cls.__subclasses__():
        yield from family(child)

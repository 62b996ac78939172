"""The step that a thread is in: what a loss and the step around it tell each other.

Keras calls a loss with targets and predictions and passes on one scalar, so the two
meet here, per thread: each replica of a strategy runs in a thread of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from distloss._formula import reduce
from distloss._formula.in_memory import sum_rows
from distloss._formula.normalization import LossSums, normalized_now
from distloss.replicas import Replicas


class CountFirst(Exception):
    """A part of a batch needs what is only known once all parts were counted."""


class StepContext:
    """A training step of a prepared model on one replica, being traced or run.

    Attributes:
      rows: local float32 scalar, the rows of this replica.
      static_rows: the same as an int where it is known, or None.
      all_rows: global float32 scalar, the rows of all replicas, where known.
      may_be_empty: whether this replica may be one without rows, which computes with a
        row of zeros instead (see `empty`).
      inputs: what the model computes with.
      y_pred: what it predicted.
      met_others: whether layers may have met those of other replicas in a collective,
        so that a gradient is not that of this replica's loss alone.
      is_evaluated: whether no gradient will be taken.
      is_uncounted_part: whether it is one of several parts, of unknown denominators.
      in_loss: whether the model's loss is being computed, not its forward pass.
      terms: what takes losses that are divided later (see `terms`), or None where
        each divides by itself.
      fused: what is summed with the gradients, or None.
      added: what each layer has added with `add_loss` on this replica.
      element_losses: those of its rows that losses have computed, a tensor per loss.
    """

    def __init__(
        self,
        rows: tf.Tensor | int,
        all_rows: tf.Tensor | None = None,
        *,
        may_be_empty: bool = False,
    ) -> None:
        self.rows = tf.cast(rows, tf.float32)
        self.static_rows = rows if isinstance(rows, int) else None
        self.all_rows = all_rows
        self.may_be_empty = may_be_empty
        self.inputs: list[Any] = []
        self.y_pred: Any = None
        self.met_others = False
        self.is_evaluated = False
        self.is_uncounted_part = False
        self.in_loss = False
        self.terms: Any = None
        self.fused: Any = None
        self.added: dict[Any, list[Any]] = {}
        self.element_losses: list[tf.Tensor] = []

    def of_rows(self, value: tf.Tensor) -> tf.Tensor:
        """`value`, and 0 where it comes from the row of an empty replica."""
        if not self.may_be_empty:
            return value
        return tf.where(self.rows > 0, value, tf.zeros_like(value))

    def count_rows(self, replicas: Replicas) -> tf.Tensor:
        """The rows of all replicas, global float32 scalar; summed once per step."""
        if self.all_rows is None:
            if self.is_uncounted_part:
                raise CountFirst
            self.all_rows = sum_rows(replicas, self.rows)
        return self.all_rows

    def normalize(self, sums: LossSums) -> tf.Tensor:
        """What a loss of this step is: its share, or what will be divided later."""
        sums = self._sums_of_rows(sums)
        if self.terms is not None:
            return self.terms.add_loss(sums)
        return normalized_now(sums)

    def _sums_of_rows(self, sums: LossSums) -> LossSums:
        weight = None if sums.weight is None else self.of_rows(sums.weight)
        return sums._replace(total=self.of_rows(sums.total), weight=weight)


class MicrobatchContext(StepContext):
    """A part of a batch: the denominators are those of the whole batch.

    Attributes:
      denominators: global float scalar per loss of the model, in the order of their
        calls; None for one that divides by a constant. None while counting.
      weights: what each loss would add to its denominator, noted while counting.
      shares: this part's share of each loss, noted while dividing.
    """

    def __init__(
        self,
        rows: tf.Tensor | int,
        all_rows: tf.Tensor,
        denominators: list[tf.Tensor] | None = None,
        *,
        may_be_empty: bool = False,
    ) -> None:
        super().__init__(rows, all_rows, may_be_empty=may_be_empty)
        self.denominators = denominators
        self.weights: list[tf.Tensor] = []
        self.shares: list[tf.Tensor] = []

    def normalize(self, sums: LossSums) -> tf.Tensor:
        """This part's share of the whole batch; 0 while weights are counted."""
        sums = self._sums_of_rows(sums)
        total, weight, denominator = sums.total, sums.weight, sums.fixed
        if self.denominators is None:
            self.weights.append(tf.zeros_like(total) if weight is None else weight)
            return tf.zeros_like(total)
        if denominator is None:
            denominator = tf.cast(self.denominators[len(self.shares)], total.dtype)
        sums.loss.note(denominator)
        self.shares.append(reduce.share(total, denominator))
        return self.shares[-1]


class _Thread(threading.local):
    def __init__(self) -> None:
        self.step: StepContext | None = None


_thread = _Thread()


@contextlib.contextmanager
def step_scope(step: StepContext) -> Iterator[None]:
    """Makes `step` the current one of this thread."""
    outer, _thread.step = _thread.step, step
    try:
        yield
    finally:
        _thread.step = outer


def current_step() -> StepContext | None:
    """The prepared model's step that this thread is in, or None."""
    return _thread.step


def note_element_losses(elements: tf.Tensor) -> None:
    """Lets the step, if this thread is in one, know losses of its rows."""
    if _thread.step is not None:
        _thread.step.element_losses.append(elements)

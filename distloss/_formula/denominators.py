"""What a loss and the step around it tell each other about denominators.

Keras calls a loss with targets and predictions and passes on one scalar, so the two
meet here, per thread: each replica of a strategy runs in a thread of its own.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from distloss._errors import ContextError


class Announces:
    """A loss that announces its global denominator when its gradient is taken."""

    global_reduction: str


class CountFirst(Exception):
    """A part of a batch needs what is only known once all parts were counted."""


class Step:
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


class Part(Step):
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


class _Thread(threading.local):
    def __init__(self) -> None:
        self.announced: Any = weakref.WeakKeyDictionary()
        self.step: Step | None = None


_thread = _Thread()


@contextlib.contextmanager
def during(step: Step) -> Iterator[None]:
    """Makes `step` the current one of this thread."""
    outer, _thread.step = _thread.step, step
    try:
        yield
    finally:
        _thread.step = outer


def current_step() -> Step | None:
    """The prepared model's step that this thread is in, or None."""
    return _thread.step


def note_element_losses(elements: tf.Tensor) -> None:
    """Lets the step, if this thread is in one, know losses of its rows."""
    if _thread.step is not None:
        _thread.step.element_losses.append(elements)


def announced(value: tf.Tensor, denominator: tf.Tensor, loss: Announces) -> tf.Tensor:
    """`value`, whose gradient announces `denominator` to the optimizer.

    When the gradient is taken, and not when the loss is: losses are also computed to
    be looked at.
    """

    @tf.custom_gradient
    def announcing(inner: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # Two are enough to see that there were several; more would only pile up
            # for a loss whose gradients nobody accumulates.
            recent = _thread.announced.setdefault(loss, collections.deque(maxlen=2))
            recent.append(denominator)
            return upstream

        return tf.identity(inner), gradient

    return announcing(value)


def _graph_of(tensor: tf.Tensor) -> Any:
    """The graph of `tensor`; None for an eager one."""
    return None if isinstance(tensor, tf.__internal__.EagerTensor) else tensor.graph


def _is_same(owner: Any, loss: Any) -> bool:
    """Whether the two are one, or were until a file of a model kept each by itself."""
    if owner is loss or type(owner) is not type(loss):
        return owner is loss
    return bool(owner.get_config() == loss.get_config())


def announced_denominator(loss: Announces) -> tf.Tensor:
    """The global denominator by which this thread's last gradient was divided.

    Forgets it, with all others: the next step announces its own.

    Raises:
      ContextError: `loss`, or one of the same config, announced none, several, or one
        of another graph, or another loss did too.
    """
    here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    found = [
        (owner, denominator)
        for owner, denominators in _thread.announced.items()
        for denominator in denominators
        if _graph_of(denominator) is here
    ]
    _thread.announced.clear()
    if len(found) == 1 and _is_same(found[0][0], loss):
        return found[0][1]
    if not found:
        problem = "no gradient of it was taken since the last step in this function"
    elif len(found) == 1:
        problem = "the gradient is that of another DistributedLoss"
    else:
        problem = f"{len(found)} DistributedLosses with a denominator each contributed"
    raise ContextError(
        "Expected the gradients of one loss, the one given as loss=, taken in the "
        f"function that applies them. Got loss={getattr(loss, 'name', loss)!r}: "
        f"{problem}. Several losses with different denominators cannot be accumulated "
        "across batches: use distloss.prepare(model, microbatches=...), which cuts "
        "each batch into parts."
    )

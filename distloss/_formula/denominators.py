"""What a loss tells the optimizer about its denominator when its gradient is taken.

Keras passes on one scalar from the loss to the optimizer, so the two meet here, per
thread: each replica of a strategy runs in a thread of its own.
"""

from __future__ import annotations

import collections
import threading
import weakref
from typing import Any

import tensorflow as tf

from distloss._errors import ContextError


class RecordsDenominator:
    """A loss whose global denominator is recorded when its gradient is taken."""

    global_reduction: str

    def note(self, denominator: tf.Tensor) -> None:
        """Notes the global W of a step, if anybody wants to know."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.recorded: Any = weakref.WeakKeyDictionary()


_thread = _Thread()


def recorded(
    value: tf.Tensor, denominator: tf.Tensor, loss: RecordsDenominator
) -> tf.Tensor:
    """`value`, whose gradient records `denominator` for the optimizer.

    When the gradient is taken, and not when the loss is: losses are also computed to
    be looked at.
    """

    @tf.custom_gradient
    def recording(inner: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # Two are enough to see that there were several; more would only pile up
            # for a loss whose gradients nobody accumulates.
            recent = _thread.recorded.setdefault(loss, collections.deque(maxlen=2))
            recent.append(denominator)
            return upstream

        return tf.identity(inner), gradient

    return recording(value)


def _graph_of(tensor: tf.Tensor) -> Any:
    """The graph of `tensor`; None for an eager one."""
    return None if isinstance(tensor, tf.__internal__.EagerTensor) else tensor.graph


def _is_same(owner: Any, loss: Any) -> bool:
    """Whether the two are one, or were until a file of a model kept each by itself."""
    if owner is loss or type(owner) is not type(loss):
        return owner is loss
    return bool(owner.get_config() == loss.get_config())


def recorded_denominator(loss: RecordsDenominator) -> tf.Tensor:
    """The global denominator by which this thread's last gradient was divided.

    Forgets it, with all others: the next step records its own.

    Raises:
      ContextError: `loss`, or one of the same config, recorded none, several, or one
        of another graph, or another loss did too.
    """
    here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    found = [
        (owner, denominator)
        for owner, denominators in _thread.recorded.items()
        for denominator in denominators
        if _graph_of(denominator) is here
    ]
    _thread.recorded.clear()
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

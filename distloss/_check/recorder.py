"""Takes gradients of a step to the host: what reaches update rules, and of tapes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._check.together import apart
from distloss._keras.update_rules import path_of, whole_of
from distloss.optimizers.sharing import replicas_of

Array = Any  # of NumPy


class Recorder:
    """The gradients of one run of a step, by the variables that they update.

    They leave the graph by functions of Python, so that devices keep no copies of them.

    Attributes:
      names: path of each variable, by the id of the whole variable, in order.
      shapes: the same for its shape.
      spread: the largest relative difference between what replicas update with.
      tapes: the most gradients of one variable that a replica takes.
      sent: the dtypes in which replicas send gradients, as far as that is known.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.sent: set[tf.DType] = set()
        self.tapes = 0
        self._variables: list[Any] = []  # so that ids stay taken
        self._thread, self._lock = threading.local(), threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Before a run."""
        self.spread = 0.0
        self._updates: dict[int, list[Array]] = {}
        self._counts: dict[tuple[int, str], int] = {}
        self._of_tapes: dict[int, Array] = {}

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.taken = {}

    def note_update(self, optimizer: Any, gradient: Any, variable: Any) -> None:
        """Notes that `gradient` is what `variable` is updated with, on one replica."""
        key = self._key(variable, path_of(optimizer, variable))
        replicas = replicas_of(optimizer)
        if replicas is not None:
            self.sent.add(replicas.sent_as(gradient.dtype))
        replica = str(getattr(variable, "device", ""))
        take = functools.partial(self._take_update, key, replica)
        self._send(gradient, take)

    def note_tape(self, sources: Any, gradients: Any) -> None:
        """Notes the first gradient of each variable that a tape of a replica gave."""
        pairs = zip(tf.nest.flatten(sources), tf.nest.flatten(gradients), strict=True)
        if not hasattr(self._thread, "taken"):
            self.restart()
        for source, gradient in pairs:
            whole = id(whole_of(source))
            if gradient is None or whole not in self.names:
                continue
            taken = self._thread.taken.get(whole, 0)
            self._thread.taken[whole] = taken + 1
            self.tapes = max(self.tapes, taken + 1)
            if not taken:
                self._send(gradient, functools.partial(self._take_tape, whole))

    def _key(self, variable: Any, name: str) -> int:
        whole = whole_of(variable)
        if id(whole) not in self.names:
            self.names[id(whole)] = name
            self.shapes[id(whole)] = tuple(int(n) for n in whole.shape)
            self._variables.append(whole)
        return id(whole)

    def _send(self, gradient: Any, take: Any) -> None:
        parts = [gradient]
        if isinstance(gradient, tf.IndexedSlices):
            parts = [gradient.values, gradient.indices]
        parts = [tf.convert_to_tensor(part) for part in parts]
        if parts[0].dtype not in (tf.float32, tf.float64):
            parts[0] = tf.cast(parts[0], tf.float32)
        with _on_the_host():
            tf.numpy_function(take, parts, [])

    def _take_update(self, key: int, replica: str, *parts: Array) -> None:
        gradient = self._dense(key, parts)
        with self._lock:
            number = self._counts.get((key, replica), 0)
            self._counts[key, replica] = number + 1
            known = self._updates.setdefault(key, [])
            if number == len(known):
                known.append(gradient)
            else:
                self.spread = max(self.spread, apart(gradient, known[number]))

    def _take_tape(self, key: int, *parts: Array) -> None:
        gradient = self._dense(key, parts)
        with self._lock:
            self._of_tapes[key] = self._of_tapes.get(key, 0.0) + gradient

    def _dense(self, key: int, parts: tuple[Array, ...]) -> Array:
        if len(parts) == 1:
            return np.array(parts[0])  # the tensor's memory is used again
        dense = np.zeros(self.shapes[key], parts[0].dtype)
        np.add.at(dense, parts[1], parts[0])
        return dense

    def updates(self) -> dict[int, Array]:
        """One flat array for each variable that was updated, of all its updates."""
        return {
            key: np.concatenate([np.ravel(one) for one in arrays])
            for key, arrays in self._updates.items()
        }

    def of_tapes(self) -> dict[int, Array]:
        """One flat array for each variable: the sum over replicas."""
        return {key: np.ravel(array) for key, array in self._of_tapes.items()}


@contextlib.contextmanager
def _on_the_host() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if not tf.executing_eagerly():
            # A variable may want its updates where it is: there runs no Python.
            graph = tf.compat.v1.get_default_graph()
            stack.enter_context(graph.colocate_with(None, ignore_existing=True))
        stack.enter_context(tf.device("CPU:0"))
        yield

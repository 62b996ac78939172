"""Builds the optimizers that would meet their variables in the first step.

TensorFlow cannot initialize what replicas create in a graph before it runs, and the
audit must know the state from which each probe starts.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from distloss._audit.child.recorder import family
from distloss._keras.private_names.of_audit import BASE_OPTIMIZER


class _Met(Exception):
    """Ends the trace of a step, in which an optimizer met its variables."""


class Unbuilt:
    """The optimizers that a step is found to update with, and were not built."""

    def __init__(self) -> None:
        self._watching = False
        self._met: dict[int, tuple[Any, list[Any]]] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In here a step ends where an optimizer would be built."""
        for cls in family(BASE_OPTIMIZER.found()):
            original = vars(cls).get("build")
            if original is not None and not hasattr(original, "_watched"):
                cls.build = self._watched(original)
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def build(self, scope: Callable[[], Any]) -> bool:
        """Builds those that were met in `scope()`; whether there were any."""
        met, self._met = self._met, {}
        for optimizer, variables in met.values():
            with scope():
                optimizer.build(variables)
        return bool(met)

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def build(optimizer: Any, variables: Any) -> Any:
            if self._watching and not optimizer.built:
                self._met[id(optimizer)] = (optimizer, list(variables))
                raise _Met
            return original(optimizer, variables)

        build._watched = True  # type: ignore[attr-defined]
        return tf.autograph.experimental.do_not_convert(build)

"""Attributes of TensorFlow and Keras that are other ones for a while."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from typing import Any

HOROVODS = ("horovod.tensorflow", "horovod.tensorflow.keras", "horovod.keras")
_MISSING = object()


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """In here `owner` has these attributes; then what it had, or inherited, again."""
    before = {name: vars(owner).get(name, _MISSING) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


@contextlib.contextmanager
def when_imported(name: str, then: Callable[[Any], None]) -> Iterator[None]:
    """In here `then` gets the module `name`: at once, or when it is imported."""
    if name in sys.modules:
        then(sys.modules[name])
        yield
        return
    finder = _Finder(name, then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as Python does, and says when it is loaded."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """The specification of the module, whose loader calls `then`."""
        if fullname != self._name:
            return None
        spec = self._next().find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self._then(module)

        spec.loader.exec_module = exec_module
        return spec

    def _next(self) -> Any:
        """Another of these that waits for the same module, or what Python asks."""
        after = sys.meta_path[sys.meta_path.index(self) + 1 :]
        same = (f for f in after if isinstance(f, _Finder) and f._name == self._name)
        return next(same, importlib.machinery.PathFinder)

"""The first training step of a script, found where the script takes it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from distloss._audit.child import script_batch
from distloss._audit.child.patches import replaced


class Stop(BaseException):
    """Ends a script at its first training step; no `except Exception` stops it."""


class FirstStep:
    """What the first training step of a script trains, and on what.

    Attributes:
      found: a model or a loop, and its first batch, as `build` returns them; or None.
      notes: what is other than the script says.
    """

    def __init__(self) -> None:
        self.found: tuple[Any, Any] | None = None
        self.notes: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In here the first training step ends the script."""
        trainer = _owner(keras.Model, "fit")
        with replaced(
            trainer,
            fit=self._instead_of(trainer.fit, script_batch.of_fit),
            train_on_batch=self._instead_of(
                trainer.train_on_batch, script_batch.of_train_on_batch
            ),
        ):
            yield

    def _instead_of(self, method: Any, batch_of: Callable[..., Any]) -> Any:
        """A method that takes what `method` would train on, and ends the script."""
        signature = inspect.signature(method)

        @functools.wraps(method)
        def stop(model: Any, *args: Any, **kwargs: Any) -> Any:
            if self.found is None:
                given = signature.bind(model, *args, **kwargs)
                given.apply_defaults()
                batch = batch_of(given.arguments)
                self.found = (model, batch)
            raise Stop

        return stop


def _owner(cls: Any, method: str) -> Any:
    """The class from which `cls` has a method."""
    return next(base for base in cls.__mro__ if method in vars(base))

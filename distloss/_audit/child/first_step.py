"""The first training step of a script, found where the script takes it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib

from distloss._audit.child import script_batch
from distloss._audit.child.loop import Call, Loop
from distloss._audit.child.patches import replaced, when_imported
from distloss._audit.child.places import Places
from distloss._audit.child.script_batch import Batch
from distloss._audit.child.updates import Updates, instead_of_updates
from distloss._errors import AuditError


class Stop(BaseException):
    """Ends a script at its first training step; no `except Exception` stops it."""


class FirstStep:
    """What the first training step of a script trains, and on what.

    Args:
      places: notes where the script makes what.

    Attributes:
      found: a model or a loop, and its first batch; or None.
      notes: what is other than the script says.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.found: tuple[Any, Batch] | None = None
        self.notes: list[tuple[str, str]] = []
        self._running = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In here the first training step ends the script."""
        with contextlib.ExitStack() as stack:

            def watch(models: Any) -> None:
                stack.enter_context(self._watching_fit(models.Model))

            def watch_tf_keras(models: Any) -> None:
                self._places.patch_models(models)
                watch(models)

            watch(keras)
            stack.enter_context(when_imported("tf_keras", watch_tf_keras))
            stack.enter_context(self._watching_run())
            stack.enter_context(instead_of_updates(self._update_of_its_own))
            yield

    @contextlib.contextmanager
    def _watching_fit(self, model: Any) -> Iterator[None]:
        trainer = _owner(model, "fit")
        with replaced(
            trainer,
            fit=self._instead_of(trainer.fit, script_batch.of_fit),
            train_on_batch=self._instead_of(
                trainer.train_on_batch, script_batch.of_train_on_batch
            ),
        ):
            yield

    def _instead_of(self, method: Any, batch_of: Callable[..., Batch]) -> Any:
        """A method that takes what `method` would train on, and ends the script."""
        signature = inspect.signature(method)

        @functools.wraps(method)
        def stop(model: Any, *args: Any, **kwargs: Any) -> Any:
            if self.found is None:
                given = signature.bind(model, *args, **kwargs)
                given.apply_defaults()
                self.found = (model, batch_of(given.arguments))
            raise Stop

        return stop

    @contextlib.contextmanager
    def _watching_run(self) -> Iterator[None]:
        """In here `strategy.run` has values, since no function becomes a graph."""
        base = distribute_lib.StrategyBase
        eagerly = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            with replaced(base, run=self._instead_of_run(base.run)):
                yield
        finally:
            tf.config.run_functions_eagerly(eagerly)

    def _instead_of_run(self, original: Any) -> Any:
        @functools.wraps(original)
        def run(
            strategy: Any,
            fn: Any,
            args: Any = (),
            kwargs: Any = None,
            options: Any = None,
        ) -> Any:
            if self.found is not None:
                raise Stop
            updates = Updates()
            with self._inside(), instead_of_updates(updates.note):
                result = original(strategy, fn, args, kwargs, options)
            if not updates.variables:
                return result
            call = Call.of(strategy, fn, args, kwargs)
            loop = Loop(call, updates.variables, updates.optimizers)
            self.found = (loop, Batch(call.batch))
            raise Stop

        return run

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        self._running = True
        try:
            yield
        finally:
            self._running = False

    def _update_of_its_own(self, optimizer: Any, _variables: list[Any]) -> None:
        """An optimizer that updates outside of all that can be probed.

        Raises:
          AuditError: always, unless the script should have ended already.
        """
        if self.found is not None:
            raise Stop
        raise AuditError(
            "Expected the first training step to be a fit or train_on_batch of a model "
            "of Keras or tf-keras, or a strategy.run whose function updates variables "
            f"with an optimizer. Got an update by {type(optimizer).__name__} outside "
            "of these, of which it is not known what a batch is. Write a function "
            "build() that returns (model, batch), and audit FILE.py:build."
        )


def _owner(cls: Any, method: str) -> Any:
    """The class from which `cls` has a method."""
    return next(base for base in cls.__mro__ if method in vars(base))

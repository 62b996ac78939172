"""The first training step of a script, found where the script takes it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib

from distloss._audit.child import script_batch
from distloss._audit.child.full_batches import rows_and_count, rows_of_all
from distloss._audit.child.loop import Call, Loop
from distloss._audit.child.own_loop import OwnLoop, frames_from
from distloss._audit.child.patches import replaced, when_imported
from distloss._audit.child.places import Places, here
from distloss._audit.child.script_batch import Batch
from distloss._audit.child.updates import Updates, instead_of_updates
from distloss._errors import AuditError

MOST_UPDATES = 100  # of a loop on one device, such as a reference, that come before


class Stop(BaseException):
    """Ends a script at its first training step; no `except Exception` stops it."""


class FirstStep:
    """What the first training step of a script trains, and on what.

    Args:
      places: notes where the script makes what.
      is_process: whether this process is one of several replicas, as with Horovod:
        then no `strategy.run` says what a step is.

    Attributes:
      found: a model or a loop, and its first batch; or None.
      strategy: that it is run with.
      updated_at: where the script updates variables outside of all that is looked for.
    """

    def __init__(self, places: Places, *, is_process: bool = False) -> None:
        self._places, self._is_process = places, is_process
        self._own = OwnLoop()
        self.found: tuple[Any, Batch] | None = None
        self.strategy: Any = None
        self.updated_at = ""
        self._others = 0
        self._dealt: set[tuple[int, int]] = set()  # of batches of each data set

    def taken(self) -> tuple[Any, Batch]:
        """What was found.

        Raises:
          LookupError: nothing was.
        """
        if self.found is None:
            raise LookupError("no training step was found")
        return self.found

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
            stack.enter_context(self._own.watching())
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
                batch = batch_of(given.arguments)
                self.found = (
                    model,
                    self._one_of_dealt(batch) if batch.dealt else batch,
                )
                self.strategy = model.distribute_strategy
                if self._is_process:
                    self._places.data = here(method.__name__)
            raise Stop

        return stop

    @contextlib.contextmanager
    def _watching_run(self) -> Iterator[None]:
        """In here `strategy.run` has values, since no function becomes a graph."""
        base = distribute_lib.StrategyBase
        eagerly = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            distribute = base.experimental_distribute_dataset
            from_function = base.distribute_datasets_from_function
            with replaced(
                base,
                run=self._instead_of_run(base.run),
                experimental_distribute_dataset=self._noting(distribute),
                distribute_datasets_from_function=self._noting_made(from_function),
            ):
                yield
        finally:
            tf.config.run_functions_eagerly(eagerly)

    def _noting(self, original: Any) -> Any:
        @functools.wraps(original)
        def distribute(strategy: Any, dataset: Any, *args: Any, **more: Any) -> Any:
            self._dealt.add(rows_and_count(dataset))
            self._places.data = self._places.data or here(original.__name__)
            return original(strategy, dataset, *args, **more)

        return distribute

    def _noting_made(self, original: Any) -> Any:
        @functools.wraps(original)
        def distribute(strategy: Any, make: Any, *args: Any, **more: Any) -> Any:
            def made(context: Any) -> Any:
                data = make(context)
                # Each replica gets a batch of it: so many rows are in all of them.
                rows = rows_of_all(data) * context.num_replicas_in_sync
                self._dealt.add((rows, -1))
                return data

            self._places.data = self._places.data or here(original.__name__)
            return original(strategy, made, *args, **more)

        return distribute

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
            with instead_of_updates(updates.note):
                result = original(strategy, fn, args, kwargs, options)
            if not updates.variables:
                return result
            self._places.data = self._places.data or here("run")
            call = Call.of(strategy, fn, args, kwargs)
            alive = frames_from(sys._getframe(1))
            loop = Loop(call, updates.variables, updates.optimizers, alive)
            batch = Batch(call.batch, dealt=tuple(call.dealt))
            self.found = (loop, self._one_of_dealt(batch))
            self.strategy = strategy
            raise Stop

        return run

    def _one_of_dealt(self, batch: Batch) -> Batch:
        """A batch of the data set that was used, if there was one only."""
        return batch.of(*next(iter(self._dealt))) if len(self._dealt) == 1 else batch

    def _update_of_its_own(self, optimizer: Any, _variables: list[Any]) -> bool:
        """An optimizer that updates outside of all that can be probed.

        Raises:
          AuditError: it trains, by now.
        """
        if self.found is not None:
            raise Stop
        if self._is_process:
            self._take_own()
        self._others += 1
        if self._others == 1:
            place = here("apply")
            self.updated_at = f" at {place['file']}:{place['line']}" if place else ""
        if self._others <= MOST_UPDATES:
            return False
        raise AuditError(
            "Expected the script to train in fit or train_on_batch of a model of Keras "
            f"or tf-keras, or in {self.other_way()}. Got {MOST_UPDATES} updates by "
            f"{type(optimizer).__name__}{self.updated_at} outside of these, where it "
            "is not known what a batch is. Write a function build() that returns "
            "(model, batch), and audit FILE.py:build."
        )

    def _take_own(self) -> None:
        """Takes the step that is running, if it is a function of the user's.

        Raises:
          Stop: it is.
        """
        step = self._own.step()
        if step is None:
            return
        updates = Updates()
        with instead_of_updates(updates.note):
            step.function(*step.args, **step.kwargs)
        call = Call.of(_Alone, step.function, step.args, step.kwargs)
        used = (*step.used, *frames_from(sys._getframe(1)))
        loop = Loop(call, updates.variables, updates.optimizers, used)
        self._dealt = {rows_and_count(data) for data in self._own.data}
        self.found = (loop, self._one_of_dealt(Batch(call.batch)))
        self._places.data = step.called_at
        raise Stop

    def other_way(self) -> str:
        """What is looked for besides `fit`, in words."""
        if self._is_process:
            return (
                "a function that is given rows, opens a tape, and updates variables "
                "with an optimizer (under tf.function, where it assigns to its "
                "arguments)"
            )
        return "a strategy.run whose function updates variables with an optimizer"


class _Alone:
    """This process, for what is asked of a strategy."""

    num_replicas_in_sync = 1

    @staticmethod
    def experimental_local_results(value: Any) -> tuple[Any]:
        """The one that there is."""
        return (value,)


def _owner(cls: Any, method: str) -> Any:
    """The class from which `cls` has a method."""
    return next(base for base in cls.__mro__ if method in vars(base))

"""The callback that compares steps of `fit` with those of one device."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from distloss._check.checked import StepOfReplicas
from distloss._check.measured import Place
from distloss._check.report import StepReport, checked_way, deliver
from distloss._check.runs import Seen, Watch
from distloss._errors import ArgumentError
from distloss._keras.tf_keras import Callback
from distloss._keras.train_functions import (
    as_steps_get_it,
    fresh_train_function,
    iterator_over,
    put_train_function,
    steps_per_call,
)
from distloss._prepare.in_fewer_rows import step_in_fewer_rows
from distloss.callbacks.arguments import checked_every
from distloss.optimizers.sharing import horovod_replicas_of
from distloss.replicas.processes import processes_of


class StepCheck(Callback):
    """Checks on your own hardware that a step has the gradient of one device.

    In the first step of `fit`, and if you like in every n-th, the rows of all replicas
    are put together, and the step is made of them on the first device alone. Its
    gradient is compared with the one with which all replicas update, after it was
    unscaled, summed and clipped. The step itself is made as always; the one on one
    device leaves nothing behind. Steps in between run as if there were no callback.

    Of several workers, and of Horovod's processes, all must have this callback, with
    the same arguments. They send each other their rows, the first of them makes the
    step on one device, and all say, warn of or raise what it finds.

    Also for models that are not prepared: what is wrong with them is reported with the
    causes of `distloss audit`, as far as the batch shows them.

    The first device must hold what the step needs for the whole batch, or for `rows` of
    it at a time, as prepared models with the step of Keras can take it. Steps that draw
    random numbers (dropout) are made of other draws on each replica, and are said not
    to be compared; so are steps without an update, as while gradients are accumulated.
    A number of replicas that your code keeps as a Python number is told one device too,
    which is said and not judged: ask the strategy where you need it.

    Args:
      first: the first step to check, from 1.
      every: steps from one check to the next; None for no other.
      rows: how many rows the first device takes at a time; None for all of them.
      on_failure: where the two differ, `"raise"` or `"warn"`.

    Attributes:
      reports: a `StepReport` of each step that was checked.

    Raises:
      GradientError: in `fit`: the gradients differ, with `on_failure="raise"`.
      ArgumentError: an argument that is not allowed; in `fit`: `rows` for a model that
        is not prepared, or that has a step of its own.

    Example:
      >>> from distloss.callbacks import StepCheck
      >>> callbacks = [StepCheck(every=1000)]  # for model.fit

    Reference: examples/guides/on_your_hardware.md.
    """

    def __init__(
        self,
        first: int = 1,
        every: int | None = None,
        rows: int | None = None,
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        self.rows = None if rows is None else _checked("rows", rows)
        self.first = _checked("first", first)
        self.every = None if every is None else checked_every(every)
        self.on_failure = checked_way(on_failure)
        self.reports: list[StepReport] = []
        self._made = self._last = 0  # steps: before this epoch, and up to this call
        self._kept: Any = None  # the model's own function, while ours is in its place

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuses `rows=` where it cannot be kept."""
        if self.rows is not None:
            step_in_fewer_rows(self.model, self.rows)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Takes the place of the function that makes the step, if it is to check."""
        first = self._made + batch + 1
        self._last = self._made + batch + steps_per_call(self.model)
        in_epoch = self.params.get("steps")
        if in_epoch is not None:  # the last call of an epoch may make fewer
            self._last = min(self._last, self._made + in_epoch)
        if any(map(self._is_due, range(first, self._last + 1))):
            self._kept = self.model.train_function
            put_train_function(self.model, functools.partial(self._step, first))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Puts it back."""
        self._put_back()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Counts the steps that were made."""
        self._made = self._last

    def on_train_end(self, logs: Any = None) -> None:
        """Puts it back."""
        self._put_back()

    def _put_back(self) -> None:
        if self._kept is not None:
            put_train_function(self.model, self._kept)
            self._kept = None

    def _is_due(self, number: int) -> bool:
        after = number - self.first
        return after == 0 or bool(self.every and after > 0 and after % self.every == 0)

    def _step(self, number: int, iterator: Any) -> Any:
        """What `fit` calls instead: one step that is checked, and those after it."""
        kept = self._kept
        self._put_back()
        batch = next(iterator)
        outputs: list[Any] = []
        strategy = self.model.distribute_strategy
        again = iterator_over(batch, iterator, strategy)
        run = functools.partial(self._measured, again, outputs)
        args = (as_steps_get_it(batch),)
        alone = None
        if self.rows is not None:
            alone = step_in_fewer_rows(self.model, self.rows)
        shared = horovod_replicas_of(self.model.optimizer)
        place = Place(strategy, processes_of(strategy, shared))
        step = StepOfReplicas(self.model.train_step, args, place, number, alone)
        report = step.check(run)
        self.reports.append(report)
        deliver(report, self.on_failure, is_first=place.processes.is_first)
        others = list(itertools.islice(iterator, steps_per_call(self.model) - 1))
        return kept(iter(others)) if others else outputs[-1]

    def _measured(self, iterator: Any, outputs: list[Any]) -> Seen:
        watch = Watch()
        with watch.active():
            outputs.append(fresh_train_function(self.model)(iterator))
        return watch.seen()


def _checked(name: str, number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArgumentError(
            f"Expected {name}= to be an int of at least 1. Got {name}={number!r}."
        )
    return number

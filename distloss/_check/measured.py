"""The step of all replicas and that of one device: what a judge gets to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from distloss._check.batches import GlobalBatch
from distloss._check.runs import (
    Seen,
    Switched,
    is_run_here,
    on_all_replicas,
    on_one_device,
)
from distloss.replicas.processes import ALONE, FailedSomewhereError, Processes

Array = Any  # of NumPy
Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Measured:
    """What all replicas and one device made of the same rows.

    Attributes:
      names: path of each variable that was updated.
      sizes: how many numbers there are for each of them.
      eps: of the coarsest dtype in which the step computes.
      rows: of each replica.
      many: what reached the update rule on all replicas, one flat array.
      one: the same on one device.
      spread: the largest relative difference between replicas.
      clips: whether the step clips gradients.
      batch_norm: whether it takes statistics of batches.
      tapes: how many gradients of one variable it takes.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    eps: float
    rows: tuple[int, ...]
    many: Array
    one: Array
    spread: float
    clips: bool
    batch_norm: bool
    tapes: int


class Judged(Protocol):
    """What a judge says of a measured step.

    Attributes:
      agrees: whether there is nothing but rounding between the two gradients.
      error: |gN - g1| / |g1|.
      allowed: up to which that is taken for rounding.
      scale: alpha, how many times too large the gradient of N replicas is.
      residual: rho, what a scale does not explain.
      variables: that differ.
      why_not: why the two could not be compared; "" if they were.
      findings: causes, with `cause`, `explanation`, `remedy` and `evidence`.
    """

    agrees: bool
    error: float
    allowed: float
    scale: float
    residual: float
    variables: tuple[str, ...]
    why_not: str
    findings: tuple[Any, ...]


class Place(NamedTuple):
    """Where steps are taken: the strategy of this process, and all processes."""

    strategy: tf.distribute.Strategy
    processes: Processes = ALONE


class _Asked(NamedTuple):
    """A run on all replicas, with rows from one bound to another on each."""

    bounds: Bounds
    switched: Switched


class Runner:
    """Runs a step as a judge wants it, to tell causes apart.

    The judge is in the first process. What is to run in all of them, the others are
    told.

    Args:
      steps: what each replica runs, and what one device runs.
      batch: what replicas were given, as arguments of the former.
      keys: ids of the variables, in the order of the gradients.
      place: where steps are taken.
    """

    def __init__(
        self,
        steps: tuple[Callable[..., Any], Callable[..., Any]],
        batch: GlobalBatch,
        keys: Any,
        place: Place,
    ) -> None:
        self._step, self._alone = steps
        self._batch, self._keys = batch, keys
        self._strategy, self._processes = place
        self._known: dict[Any, tuple[Array, float]] = {}

    def look(self, count: int, probe: Any) -> tuple[Array, float]:
        """The gradient, and its spread over replicas, that a probe shows.

        Args:
          count: of replicas; 1 for one device.
          probe: of the audit.

        Raises:
          NotImplementedError: nothing here can do what the probe wants.
          Exception: of the step.
        """
        switched = _switched(probe)
        (bounds,) = probe.micro
        key = (count, bounds, probe.order, switched)
        if key not in self._known:
            if count > 1:
                asked = self._processes.told(_Asked(bounds, switched))
                seen = self._on_all(asked)
                self._known[key] = flat(seen, self._keys), seen.spread
            else:
                self._known[key] = self._on_one(bounds, probe.order, switched), 0.0
        return self._known[key]

    def follow(self) -> Any:
        """Takes part in what the first process looks at; returns what it tells then."""
        while isinstance(asked := self._processes.told(None), _Asked):
            with contextlib.suppress(FailedSomewhereError):  # the first one hears of it
                self._on_all(asked)
        return asked

    def _on_all(self, asked: _Asked) -> Seen:
        processes, strategy = self._processes, self._strategy
        if processes.count > 1:
            # One that fails among others in their collectives would let them wait.
            processes.all_make(lambda: self._try_here(asked))
        args = processes.all_make(lambda: self._batch.dealt(asked.bounds))
        return on_all_replicas(self._step, strategy, args, asked.switched, processes)

    def _try_here(self, asked: _Asked) -> None:
        for number in self._batch.here:
            part = self._batch.between(*asked.bounds[number])
            is_run_here(self._step, self._strategy, part, asked.switched)

    def _on_one(self, bounds: Bounds, order: Any, switched: Switched) -> Array:
        ((start, stop),) = bounds
        if start == stop:
            return np.zeros(())
        is_all = stop - start == sum(self._batch.rows)
        args = self._batch.whole(order) if is_all else self._batch.between(start, stop)
        seen = on_one_device(self._alone, self._strategy, args, switched)
        return flat(seen, self._keys)


def _switched(probe: Any) -> Switched:
    is_as_it_is = probe.added == probe.regularizers == 1.0 and probe.clip in (0, 1)
    others = (probe.outputs, probe.alone, probe.nudge, probe.slices_added)
    if not is_as_it_is or any(others) or probe.infinite_row is not None:
        raise NotImplementedError("a step that trains cannot be changed in this way")
    if probe.observe == "weights" or len(probe.micro) > 1:
        raise NotImplementedError("only gradients of single steps are looked at")
    is_live, is_tape = probe.batch_norm == "live", probe.observe == "tape"
    return Switched(bool(probe.clip), is_live, is_tape)


def flat(seen: Seen, keys: Any) -> Array:
    """The gradients of all variables as one array; 0 where one has none."""
    parts = [
        seen.gradients.get(key, np.zeros(seen.shapes.get(key, ()))) for key in keys
    ]
    return np.concatenate([np.ravel(part) for part in parts])

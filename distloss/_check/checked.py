"""One step that is checked: measured on one device and on all replicas, and judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distloss._check.batches import GlobalBatch, replicas_here
from distloss._check.judge import judged
from distloss._check.measured import Judged, Measured, Place, Runner, flat
from distloss._check.report import StepReport, not_compared, report_of
from distloss._check.runs import Seen, Switched, of_everybody, on_one_device
from distloss._check.state import State
from distloss.replicas.processes import FailedSomewhereError, said_of


class StepOfReplicas:
    """A step, and the batch that replicas take in it.

    Args:
      step: what each replica runs.
      batch: nest of what a strategy gives to its replicas, the arguments of `step`.
      place: the strategy of the replicas, and all processes that have some.
      number: of the step, from 1.
      alone: what one device runs instead of `step`, if that is not the same.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        batch: tuple[Any, ...],
        place: Place,
        number: int = 0,
        alone: Callable[..., Any] | None = None,
    ) -> None:
        self._steps = step, alone or step
        self._args, self._place, self._number = batch, place, number
        self._strategy, self._processes = place

    def check(self, run: Callable[[], Seen]) -> StepReport:
        """Measures the step on one device, then `run`; compares the two.

        Args:
          run: makes the step on all replicas, and says what was seen.

        Raises:
          Exception: of `run`.
        """
        try:
            batch = GlobalBatch(self._args, self._strategy, self._processes)
            wanted = self._on_one_device(batch)
        except Exception as error:
            run()
            return self._not_compared(said_of(error))
        before = State(wanted.variables)
        seen = run()
        after = State(wanted.variables)
        before.restore()  # since more is measured where the two differ
        try:
            return self._report(seen, wanted, batch)
        finally:
            after.restore()

    def _on_one_device(self, batch: GlobalBatch) -> Seen:
        whole = self._processes.all_make(batch.whole)
        alone = self._steps[1]
        strategy, processes = self._place
        return on_one_device(alone, strategy, whole, processes=processes)

    def _not_compared(self, why: str) -> StepReport:
        count = self._processes.count * replicas_here(self._strategy)
        return not_compared(self._number, count, why)

    def _report(self, seen: Seen, wanted: Seen, batch: GlobalBatch) -> StepReport:
        """What the first process says, in all of them."""
        try:
            seen = of_everybody(seen, Switched(), self._processes)
        except FailedSomewhereError as error:
            return self._not_compared(str(error))
        runner = Runner(self._steps, batch, tuple(wanted.gradients), self._place)
        if not self._processes.is_first:
            found: StepReport = runner.follow()
            return found
        try:
            report = self._judged(seen, wanted, batch, runner)
        except Exception as error:
            if self._processes.count == 1:
                raise
            report = self._not_compared(said_of(error))
        self._processes.told(report)
        return report

    def _judged(
        self, seen: Seen, wanted: Seen, batch: GlobalBatch, runner: Runner
    ) -> StepReport:
        why = _why_not(seen, wanted)
        if why:
            return self._not_compared(why)
        measured = _measured(seen, wanted, batch.rows)
        verdict = judged(measured, runner.look)
        if wanted.random and not verdict.agrees:
            drawn = ", ".join(wanted.random)
            return self._not_compared(
                f"it draws random numbers ({drawn}), which replicas draw otherwise"
            )
        if _may_be_told(verdict, wanted, len(batch.rows)):
            return self._not_compared(
                f"the gradient of {len(batch.rows)} replicas is so many times that of "
                "one device, and the step divides by a constant of this size. If that "
                "is the number of replicas, one device was told it, too. Ask for "
                "num_replicas_in_sync, or hvd.size(), where the step needs it"
            )
        return report_of(self._number, measured, verdict)


def _may_be_told(verdict: Judged, wanted: Seen, count: int) -> bool:
    """Whether a constant may be why one device has a gradient N times too small."""
    is_factor = verdict.residual < 1e-3 and math.isclose(
        verdict.scale, count, rel_tol=1e-3
    )
    is_constant = any(
        math.isclose(factor, wish, rel_tol=1e-6)
        for factor in wanted.factors
        for wish in (count, 1 / count)
    )
    return not verdict.agrees and is_factor and is_constant


def _why_not(seen: Seen, wanted: Seen) -> str:
    if not seen.gradients and not wanted.gradients:
        return (
            "no update was seen: gradients are accumulated, the loss scale was too "
            "large, or no Keras optimizer makes it"
        )
    sizes = [
        {key: g.size for key, g in one.gradients.items()} for one in (seen, wanted)
    ]
    if sizes[0] != sizes[1]:
        return (
            f"replicas update {len(sizes[0])} variables, one device {len(sizes[1])}, "
            "or some of them more often"
        )
    return ""


def _measured(seen: Seen, wanted: Seen, rows: tuple[int, ...]) -> Measured:
    keys = tuple(wanted.gradients)
    return Measured(
        tuple(wanted.names[key] for key in keys),
        tuple(int(np.size(wanted.gradients[key])) for key in keys),
        max(seen.eps, wanted.eps),
        rows,
        flat(seen, keys),
        flat(wanted, keys),
        seen.spread,
        "clip" in wanted.found,
        "batch_norm" in wanted.found,
        wanted.tapes,
    )

"""One step that is checked: measured on one device and on all replicas, and judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._check.batches import GlobalBatch
from distloss._check.judge import judged
from distloss._check.measured import Judged, Measured, Runner, flat
from distloss._check.report import StepReport, not_compared, report_of
from distloss._check.runs import Seen, on_one_device
from distloss._check.state import State
from distloss.replicas.horovod_calls import processes


class StepOfReplicas:
    """A step, and the batch that replicas take in it.

    Args:
      step: what each replica runs.
      batch: nest of what a strategy gives to its replicas, the arguments of `step`.
      strategy: of the replicas.
      number: of the step, from 1.
      alone: what one device runs instead of `step`, if that is not the same.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        batch: tuple[Any, ...],
        strategy: tf.distribute.Strategy,
        number: int = 0,
        alone: Callable[..., Any] | None = None,
    ) -> None:
        self._alone = alone or step
        self._step, self._args, self._strategy = step, batch, strategy
        self._number = number

    def check(self, run: Callable[[], Seen]) -> StepReport:
        """Measures the step on one device, then `run`; compares the two.

        Args:
          run: makes the step on all replicas, and says what was seen.

        Raises:
          Exception: of `run`.
        """
        if processes() > 1:
            run()
            return self._not_compared(
                f"Horovod runs {processes()} processes, of which each has a part of "
                "the batch"
            )
        try:
            batch = GlobalBatch(self._args, self._strategy)
            wanted = on_one_device(self._alone, self._strategy, batch.whole())
        except Exception as error:
            run()
            return self._not_compared(f"{type(error).__name__}: {error}")
        before = State(wanted.variables)
        seen = run()
        after = State(wanted.variables)
        before.restore()  # since more is measured where the two differ
        try:
            return self._judged(seen, wanted, batch)
        finally:
            after.restore()

    def _not_compared(self, why: str) -> StepReport:
        count = self._strategy.num_replicas_in_sync
        return not_compared(self._number, count, why)

    def _judged(self, seen: Seen, wanted: Seen, batch: GlobalBatch) -> StepReport:
        why = _why_not(seen, wanted)
        if why:
            return self._not_compared(why)
        measured = _measured(seen, wanted, batch.rows)
        steps = self._step, self._alone
        runner = Runner(steps, batch, tuple(wanted.gradients), self._strategy)
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
                "is the number of replicas, one device was told it, too. Ask the "
                "strategy for num_replicas_in_sync where the step needs it"
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

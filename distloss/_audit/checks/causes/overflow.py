"""A gradient that is infinite on one replica only."""

from __future__ import annotations

import dataclasses

from distloss._audit.checks.cause import Cause, by_the_optimizer
from distloss._audit.checks.check import Check
from distloss._audit.checks.comparison import Comparison

NOT_AGREED = Cause(
    "overflow-not-agreed",
    "A gradient that is infinite on one replica is not skipped on all, as it is on one "
    "device.",
    by_the_optimizer("By hand: test the summed gradients."),
    beyond_rounding=True,
    made_with="optimizer",
)


def _overflow(comparison: Comparison, _even_agrees: bool) -> None:
    even = comparison.even()
    for replica in (comparison.replicas - 1, 0):
        row = even.micro[0][replica][0]
        probe = dataclasses.replace(even, name="overflow", infinite_row=row, clip=1.0)
        if comparison.look(1, probe.on_one()).moved:
            if comparison.facts.loss_scale:
                why = "an infinite input made no infinite gradient"
                comparison.skip("overflow", why)
            return
        seen = comparison.look(comparison.replicas, probe)
        if seen.moved or not seen.finite:
            state = "changed" if seen.finite else "not finite"
            _, difference = comparison.measure(even)
            comparison.find(
                NOT_AGREED,
                dataclasses.replace(difference, wrong=()),
                f"an infinite row on replica {replica} only: the weights are {state} "
                "after the step; on one device it is skipped",
            )
            return


CHECK = Check("overflow", (NOT_AGREED,), on_replicas=_overflow)

"""Slices of one index in a sparse gradient, updated or clipped one by one."""

from __future__ import annotations

import dataclasses

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, by_the_optimizer
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference, Look, StepFacts, Tolerance
from distloss._audit.checks.comparison import Comparison
from distloss._audit.checks.probes import Probe

SLICES_APART = Cause(
    "sparse-slices-apart",
    "A sparse gradient holds several slices of one index, as an embedding makes them "
    "of an id that comes again, and they are squared or clipped apart: the update "
    "depends on how the gradient happens to be cut, and is another one than that of "
    "the dense gradient.",
    by_the_optimizer(
        "Add slices up by index before anything that is not linear in them. By hand: "
        "tf.convert_to_tensor(gradient), or tf.unique and "
        "tf.math.unsorted_segment_sum."
    ),
    made_with="optimizer",
)

_SHOWN = (
    "the same step on the same rows changes the weights by another amount if slices of "
    "one index are added up first"
)


def _apart(look: Look, facts: StepFacts, count: int, probe: Probe) -> Difference:
    """What the step makes of slices of one index, against the update of their sum."""
    as_it_is = dataclasses.replace(probe, observe="weights", clip=1.0)
    added_up = dataclasses.replace(as_it_is, slices_added=True)
    # The same rows in the same order: here the noise of another order is no excuse.
    return Tolerance(facts).compare(look(count, as_it_is), look(count, added_up))


def _on_one(baseline: Baseline) -> None:
    if not baseline.is_random:
        baseline.attempt("slices", lambda: _slices_on_one(baseline))


def _slices_on_one(baseline: Baseline) -> None:
    look, facts, probe = baseline.look, baseline.facts, baseline.whole()
    if not look(1, probe).repeats:
        return
    difference = _apart(look, facts, 1, probe)
    if not difference.agrees:
        found = SLICES_APART.finding(1, difference.scale, _SHOWN)
        names = tuple(facts.names[i] for i in difference.wrong)
        baseline.findings.append(
            dataclasses.replace(found, residual=difference.residual, variables=names)
        )


def _on_replicas(comparison: Comparison, _even_agrees: bool) -> None:
    look, n = comparison.look, comparison.replicas
    even = dataclasses.replace(comparison.even(), name="sparse update")
    if not look(n, even).repeats:
        return
    difference = _apart(look, comparison.facts, n, even)
    comparison.note_doubt(difference)
    if difference.finite and not difference.agrees:
        shown = f"alpha = {difference.scale:.4g}, rho = {difference.residual:.2g}"
        comparison.find(SLICES_APART, difference, f"{_SHOWN}: {shown}")


CHECK = Check(
    "slices", (SLICES_APART,), on_one_device=_on_one, on_replicas=_on_replicas
)

"""A step that trains nothing, or that leaves some variables as they are.

Named is only what cannot be meant, or cannot change later: a graph in which nothing
writes to the weights, and a gradient that was asked for and is not there. What is left
out of an update may be frozen on purpose, which a note says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import (
    Difference,
    Look,
    NotRun,
    Observation,
    StepFacts,
    norm,
)
from distloss._audit.checks.comparison import Comparison
from distloss._audit.report.findings import Finding, Skipped

MOST_SHIFTED = 8  # variables whose effect on the loss is looked at
MORE_CALLS = 4  # times as many as make an update on one device

NO_UPDATE = Cause(
    "no-update",
    "The step takes gradients and gives them to nobody: no operation in it changes a "
    "weight, however long it trains.",
    Remedy(
        "Apply the gradients in the step: "
        "optimizer.apply_gradients(zip(gradients, model.trainable_variables))."
    ),
    cases={
        "metrics": (
            "The step computes a loss or metrics and takes no gradient: no operation "
            "in it changes a weight, however long it trains.",
            Remedy(
                "Take the gradient of the loss in the step (tf.GradientTape) and give "
                "it to the optimizer; a train_step of a Keras model may return what "
                "super().train_step(data) returns."
            ),
        ),
        "some": (
            "Some variables get no gradient, though the step asks for it and its loss "
            "depends on them: they keep the values that they began with.",
            Remedy(
                "Call what uses them inside the tape, and get from them to the loss by "
                "operations that have a gradient: no NumPy, argmax, rounding, "
                "comparison or cast to integers. Of a part that is to stay as it is, "
                "say so by trainable = False."
            ),
        ),
        "replicas": (
            "On several replicas the step changes no weight; on one device it does.",
            Remedy(
                "Apply the gradients on each replica, inside strategy.run, whatever "
                "its number, and look at what becomes of them on the way to the "
                "optimizer."
            ),
        ),
    },
    likely=("some",),
    made_with="optimizer",
)


def _trains_nothing(look: Look, facts: StepFacts) -> Finding | None:
    """Reads it off the graph, and sees that one call of the step changes nothing."""
    updated = facts.updated
    if updated is None or updated.written or updated.elsewhere or not updated.read:
        return None
    try:
        seen = look(1, probes.whole(facts.rows, 1))
    except NotRun:
        return None  # why it does not run is said where that is asked again
    if seen.moved or "gradient" in seen.sources:
        return None
    read = f"{len(updated.read)} of {len(facts.names)} trainable variables"
    evidence = f"the traced step reads {read}, and no operation in it writes to one"
    case = "" if seen.losses else "metrics"
    if not case:
        evidence += f"; tapes took gradients of the loss {seen.losses[0]:.6g}"
    found = NO_UPDATE.finding(1, 0.0, evidence, case=case)
    return dataclasses.replace(found, variables=facts.names)


def _leaves_some(baseline: Baseline) -> None:
    updated = baseline.facts.updated
    if updated is None or not updated.written:
        return
    if baseline.is_measured:
        baseline.attempt("variables without a gradient", lambda: _ungiven(baseline))
    found = {name for f in baseline.findings for name in f.variables}
    discarded = {*updated.discarded}
    unused = {*updated.read} - {*updated.written} - discarded
    names = baseline.facts.names
    _say(baseline, "uses", [names[i] for i in unused if names[i] not in found])
    # Mostly no intention, but nobody can know, unless they may have gone elsewhere.
    taken = [names[i] for i in discarded if names[i] not in found]
    _say(baseline, "takes the gradient of", taken, unseen=not updated.elsewhere)


def _say(
    baseline: Baseline, does: str, names: Iterable[str], *, unseen: bool = False
) -> None:
    """Notes variables that the step, which does this with them, leaves as they are."""
    if named := ", ".join(sorted(names)):
        why = (
            f"the step {does} {named} and never changes them; where that is meant, "
            "trainable = False says so"
        )
        check = "variables that stay as they are"
        baseline.skipped.append(Skipped(check, why, unseen))


def _ungiven(baseline: Baseline) -> None:
    """Which of those without a gradient the loss depends on."""
    facts, whole = baseline.facts, baseline.whole()
    if facts.updated is None:
        return
    first = baseline.look(1, whole).losses
    moved = {}
    for i in facts.updated.without_gradient[:MOST_SHIFTED]:
        shifted = dataclasses.replace(whole, name="other values", shifted=i)
        change = _change(first, baseline.look(1, shifted).losses)
        if change > 100 * facts.rounding:
            moved[facts.names[i]] = change
    if moved:
        changes = ", ".join(f"{name}: {change:.2g}" for name, change in moved.items())
        evidence = (
            "a tape was asked for their gradients and gave none; with other values of "
            f"one of them the loss changes, relative to what it is, by {changes}"
        )
        found = NO_UPDATE.finding(1, 1.0, evidence, case="some")
        baseline.findings.append(dataclasses.replace(found, variables=tuple(moved)))


def _change(before: tuple[float, ...], after: tuple[float, ...]) -> float:
    """The largest relative change of a loss; 0 where it cannot be told."""
    old, new = np.array(before), np.array(after)
    if not len(old) or len(old) != len(new) or not np.isfinite([*old, *new]).all():
        return 0.0
    largest = float(np.abs([old, new]).max())
    return float(np.abs(new - old).max() / largest) if largest else 0.0


def _stands_still(
    comparison: Comparison,
    seen: Observation,
    difference: Difference,
    _after: Observation,
) -> bool:
    """Whether N replicas do nothing, and not only need more calls."""
    if seen.moved or norm(seen.gradient) or comparison.facts.loss_scale:
        return False
    even = comparison.even()
    if not comparison.look(1, even.on_one()).moved:
        return False
    longer = dataclasses.replace(even, micro=even.micro * MORE_CALLS)
    if comparison.look(comparison.replicas, longer).moved:
        return False
    calls = len(longer.micro)
    evidence = f"no weight changes in {calls} calls of the step; on one device it does"
    comparison.find(NO_UPDATE, difference, evidence, case="replicas")
    return True


CHECK = Check(
    "updates",
    (NO_UPDATE,),
    on_trace=_trains_nothing,
    on_one_device=_leaves_some,
    on_first_step=_stands_still,
)

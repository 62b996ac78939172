"""An update that is made of several gradients, on one device."""

from __future__ import annotations

import dataclasses

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import norm, scale_of
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Skipped

MEAN_OF_MEANS = Cause(
    "accumulation-mean-of-means",
    "Accumulated batches count the same whatever their sizes: rows of a small one "
    "count for more.",
    Remedy(
        "By hand: accumulate sums and denominators, divide once.",
        "distloss.DistributedOptimizer(optimizer, accumulation_steps=K, loss=loss)",
        compiled=True,
        arguments=", microbatches=K",
    ),
    made_with="optimizer",
)

NOT_AVERAGED = Cause(
    "accumulation-not-averaged",
    "The gradients of accumulated batches are added up and not divided: they are too "
    "large by their number.",
    Remedy(
        "Divide by the number of accumulated batches, or better by their rows.",
        compiled=True,
        arguments=", microbatches=K",
    ),
    made_with="optimizer",
)


def counts_wrongly(baseline: Baseline) -> bool:
    """Whether a wrong accumulation was found."""
    causes = (MEAN_OF_MEANS.slug, NOT_AVERAGED.slug)
    return any(f.cause in causes for f in baseline.findings)


def _accumulation(baseline: Baseline) -> None:
    if not baseline.is_measured:
        return
    calls, tapes = baseline.facts.calls, baseline.facts.tapes
    if calls > 1:
        _calls_count_alike(baseline)
    if calls > 1 or tapes > 1:
        baseline.attempt("accumulation", lambda: _parts_of_a_step(baseline))


def _calls_count_alike(baseline: Baseline) -> None:
    """Whether calls count the same whatever their rows."""
    facts, whole = baseline.facts, baseline.whole()
    if facts.why_not("uneven", 1):
        why = f"all batches have {facts.always} rows, so that they count alike"
        baseline.skipped.append(Skipped("batches of unequal rows", why))
        return
    alike = [
        dataclasses.replace(whole, micro=(bounds,) * facts.calls)
        for bounds in whole.micro
    ]
    parts = [baseline.seen(probe) for probe in alike]
    seen = baseline.seen(whole)
    factors, left = baseline.tolerance.fit(seen.gradient, [p.gradient for p in parts])
    if left > 30 * facts.rounding:
        return
    rows = [bounds[0][1] - bounds[0][0] for bounds in whole.micro]
    counts_alike = all(abs(f * len(rows) - 1) < 0.02 for f in factors)
    if counts_alike and _are_means(baseline, alike):
        evidence = (
            f"{len(rows)} batches of {rows} rows each count 1/{len(rows)} in the update"
        )
        baseline.find(MEAN_OF_MEANS, 1.0, evidence)


def _are_means(baseline: Baseline, alike: list[Probe]) -> bool:
    """Whether batches of one row, repeated, give the same whatever their length.

    Sums that a constant divides do not: they count alike, too, and are right.
    """
    order = (0,) * baseline.facts.rows
    first, last = (
        baseline.seen(dataclasses.replace(probe, order=order)).gradient
        for probe in (alike[0], alike[-1])
    )
    return bool(norm(first)) and abs(scale_of(last, first) - 1) < 0.02


def _parts_of_a_step(baseline: Baseline) -> None:
    """Whether the parts that a step is cut into count as they should."""
    if baseline.facts.calls == 1:
        if not _takes_parts(baseline):
            return
        _tapes_count_alike(baseline)
    _not_averaged(baseline)


def _takes_parts(baseline: Baseline) -> bool:
    """Whether the gradients of one step are those of one loss, of other rows.

    Then they are of the same number where all rows are the same. Of two tasks, of a
    loss and of the same one with weights moved, they are not.
    """
    facts = baseline.facts
    rows = facts.tapes * max(1, facts.rows // facts.tapes)
    alike = dataclasses.replace(probes.whole(rows, 1), order=(0,) * rows)
    losses = np.array(baseline.look(1, alike).losses)
    return bool(np.ptp(losses) <= 100 * facts.rounding * np.abs(losses).max())


def _tapes_count_alike(baseline: Baseline) -> None:
    """Whether the parts that one step is cut into count by what they hold."""
    facts, whole = baseline.facts, baseline.whole()
    first = baseline.look(1, whole)
    twice = tuple(i for i in range(facts.rows) for _ in range(facts.tapes))
    turned = tuple(reversed(range(facts.rows)))
    ways = {
        "each row repeated": (probes.whole(len(twice), 1), twice),
        "the rows in reverse": (whole, turned),
    }
    for way, (probe, order) in ways.items():
        other = baseline.look(1, dataclasses.replace(probe, order=order))
        scale = scale_of(other.gradient, first.gradient)
        scaled = dataclasses.replace(other, gradient=other.gradient / scale)
        difference = baseline.tolerance.compare(scaled, first)
        if not difference.agrees:
            evidence = (
                f"one device takes {facts.tapes} gradients per step; with {way}, their "
                f"sum differs by {difference.error:.2g}"
            )
            baseline.find(MEAN_OF_MEANS, 1.0, evidence)
            return


def _not_averaged(baseline: Baseline) -> None:
    """Whether the gradient is K times that of the loss that the step reports."""
    facts = baseline.facts
    parts = max(facts.calls, facts.tapes)
    alike = dataclasses.replace(baseline.whole(), order=(0,) * facts.rows)
    seen = baseline.look(1, alike)
    squared = norm(seen.gradient) ** 2
    if len(seen.loss) != 1 or not squared or not seen.loss[0]:
        return
    nudge = 0.01 * abs(seen.loss[0]) / squared
    up, down = (
        baseline.look(1, dataclasses.replace(alike, nudge=sign * nudge)).loss[0]
        for sign in (1, -1)
    )
    slope = (up - down) / (2 * nudge * squared)
    if abs(slope * parts - 1) < 0.02:
        evidence = (
            f"one device takes {parts} gradients per update, and the update is "
            f"{1 / slope:.3g} times the gradient of the loss that is reported"
        )
        # A sum of gradients says more than that their parts count wrongly.
        baseline.findings = [
            f for f in baseline.findings if f.cause != MEAN_OF_MEANS.slug
        ]
        baseline.find(NOT_AVERAGED, 1 / slope, evidence)


CHECK = Check(
    "accumulation", (MEAN_OF_MEANS, NOT_AVERAGED), on_one_device=_accumulation
)

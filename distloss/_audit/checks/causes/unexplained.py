"""A difference that no check explains, which is said and not guessed at."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.causes.accumulation import counts_wrongly
from distloss._audit.checks.check import Check
from distloss._audit.checks.comparison import Comparison, Deviation
from distloss._audit.checks.probes import Probe

UNEXPLAINED = Cause(
    "unexplained",
    "The gradient depends on how the batch is split; the cause could not be told.",
    Remedy("See the evidence for what was tried."),
    may_be_chance=True,
    is_certain=False,
)


def is_of_accumulation(comparison: Comparison, probe: Probe) -> bool:
    """Whether a cause on one device explains a difference already; notes it."""
    if not counts_wrongly(comparison.baseline):
        return False
    why = "it differs, as the wrong accumulation on one device lets expect"
    comparison.skip(probe.name, why)
    return True


def explain(comparison: Comparison, deviation: Deviation) -> bool:
    """Says what was tried; or that a cause on one device explains it already."""
    probe, difference = deviation.probe, deviation.difference
    if is_of_accumulation(comparison, probe):
        return True
    tried = (
        f"{probe.name}: alpha = {difference.scale:.4g}, rho = "
        f"{difference.residual:.2g}; tried: a factor N, 1/N, N*N; a term without data; "
        "means of parts; scales per variable"
    )
    comparison.find(UNEXPLAINED, difference, tried, term=deviation.term)
    return True


CHECK = Check("anything else", (UNEXPLAINED,), explain=explain)

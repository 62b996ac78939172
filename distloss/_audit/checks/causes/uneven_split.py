"""An uneven split, where an even one shows nothing."""

from __future__ import annotations

from distloss._audit.checks import probes
from distloss._audit.checks.causes import parts, unexplained
from distloss._audit.checks.check import Check
from distloss._audit.checks.comparison import Comparison, Deviation


def _uneven(comparison: Comparison, even_agrees: bool) -> None:
    facts = comparison.facts
    probe = probes.uneven(facts.rows, comparison.replicas, facts.calls)
    if probe is None:
        comparison.skip("uneven split", f"{facts.rows} rows are too few")
        return
    _, difference = comparison.measure(probe)
    if not even_agrees or difference.agrees:
        return
    before = len(comparison.findings)
    for term, alone in comparison.terms(probe):
        _, own = comparison.measure(alone)
        if not own.agrees:
            _explain(comparison, Deviation(alone, own, term))
    if len(comparison.findings) == before:
        _explain(comparison, Deviation(probe, difference))


def _explain(comparison: Comparison, deviation: Deviation) -> None:
    if not parts.explain(comparison, deviation):
        unexplained.explain(comparison, deviation)


CHECK = Check("uneven", on_replicas=_uneven, split="uneven")

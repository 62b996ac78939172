"""N replicas compared with one: what checks ask, and where they note what they find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause
from distloss._audit.checks.compare import (
    Difference,
    NotRun,
    Observation,
    Vector,
    norm,
)
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Finding, Measured, Skipped


@dataclass(frozen=True)
class Deviation:
    """A probe for which N replicas differ from one.

    Attributes:
      probe: what was run.
      difference: what it showed.
      term: the term of the loss that alone was switched on; "" for all of them.
    """

    probe: Probe
    difference: Difference
    term: str = ""


class Comparison:
    """N replicas compared with one.

    Args:
      replicas: N.
      baseline: the step on one device, and what was found there.

    Attributes:
      findings: what is wrong.
      skipped: what was not checked, and why.
      measured: what each probe said.
      doubt: the largest difference that may be rounding, or more.
      by_weights: whether what a step changes in weights is compared, and not the
        gradients that reach an update rule.
    """

    def __init__(self, replicas: int, baseline: Baseline) -> None:
        self.replicas, self.baseline = replicas, baseline
        self.facts, self.tolerance = baseline.facts, baseline.tolerance
        self.doubt, self.by_weights = 0.0, False
        self.findings: list[Finding] = []
        self.skipped: list[Skipped] = []
        self.measured: list[Measured] = []

    # -- asking

    def even(self) -> Probe:
        """The probe in which each replica gets as many rows."""
        return probes.even(self.facts.rows, self.replicas, self.facts.calls)

    def look(self, count: int, probe: Probe) -> Observation:
        """What a probe shows; of one term alone, what its absence changes.

        Raises:
          NotRun: it could not be run.
        """
        if self.by_weights and probe.observe == "gradient":
            probe = dataclasses.replace(probe, observe="weights")
        if not probe.alone:
            return self.baseline.look(count, probe)
        on = dataclasses.replace(probe, alone="")
        without: Any = {probe.alone: 0.0}
        seen = self.baseline.look(count, on)
        off = self.baseline.look(count, dataclasses.replace(on, **without))
        # A difference is no more exact than the two numbers that it is taken of.
        return dataclasses.replace(
            seen,
            gradient=np.asarray(seen.gradient, np.float64) - off.gradient,
            sources=("weights",),
            size=norm(seen.gradient),
        )

    def many_and_one(self, probe: Probe) -> tuple[Observation, Observation]:
        """What N replicas show, and what one does with the same rows."""
        return self.look(self.replicas, probe), self.look(1, probe.on_one())

    def parts(self, probe: Probe) -> list[Vector]:
        """The gradient of the rows of each replica, alone on one device."""
        n = self.replicas
        return [self.look(1, probe.of_replica(r)).gradient for r in range(n)]

    def measure(self, probe: Probe) -> tuple[Observation, Difference]:
        """What N replicas show, and how far one replica is from it; the report has it.

        Raises:
          NotRun: it could not be run.
        """
        seen, reference = self.many_and_one(probe)
        return seen, self.compare(probe, seen, reference)

    def measure_first(
        self, probe: Probe
    ) -> tuple[Observation, Difference, Observation]:
        """The same, and how weights change, after the decision what is compared.

        Replicas that update with gradients of their own may bring their weights
        together afterwards. Then only these say what the step does.

        Raises:
          NotRun: it could not be run.
        """
        seen, difference = self.measure(probe)
        weights = dataclasses.replace(probe, observe="weights")
        after = self.look(self.replicas, weights)
        rounding = self.facts.rounding
        if seen.spread > rounding >= after.spread and after.moved:
            self.by_weights = True
            self.measured.pop()
            seen, difference = self.measure(probe)
        return seen, difference, after

    def compare(
        self, probe: Probe, seen: Observation, reference: Observation
    ) -> Difference:
        """How far `seen` on N replicas is from `reference`; the report has it."""
        difference = self.tolerance.compare(seen, reference)
        self.measured.append(self._as_measured(probe, difference))
        self.note_doubt(difference)
        return difference

    def note_doubt(self, difference: Difference) -> None:
        """Keeps in mind that a difference may be rounding, or more."""
        if difference.doubtful:
            self.doubt = max(self.doubt, difference.error)

    def _as_measured(self, probe: Probe, difference: Difference) -> Measured:
        names = self.facts.names
        return Measured(
            probe.name,
            self.replicas,
            tuple(tuple(rows) for rows in probe.rows()),
            difference.scale,
            difference.residual,
            difference.error,
            difference.agrees,
            {names[i]: pair for i, pair in difference.variables.items()},
        )

    # -- terms of the loss

    def terms(self, probe: Probe) -> Iterator[tuple[str, Probe]]:
        """The probe with one term of the loss at a time; nothing if there is one."""
        terms, outputs = self.facts.terms, self.facts.outputs
        if not terms and len(outputs) < 2:
            return
        off = dataclasses.replace(probe, added=0.0, regularizers=0.0)
        for i, name in enumerate(outputs):
            only = tuple(float(i == j) for j in range(len(outputs)))
            yield f"output {name}", dataclasses.replace(off, outputs=only)
        if not outputs:
            yield "loss of the data", off
        nothing = dataclasses.replace(off, outputs=(0.0,) * max(1, len(outputs)))
        for name in terms:
            own: Any = {name: 1.0}
            alone = dataclasses.replace(nothing, **own)
            if not self.facts.is_keras:  # the loss of the data has no switch
                alone = dataclasses.replace(off, alone=name, **own)
            yield from self._layers(name, alone)

    def _layers(self, term: str, probe: Probe) -> Iterator[tuple[str, Probe]]:
        """The probe of a term; of what several layers add, one of each layer."""
        if term != "added" or len(self.facts.adders) < 2:
            yield term, probe
            return
        for i, layer in enumerate(self.facts.adders):
            yield f"added by {layer}", dataclasses.replace(probe, only_added=i)

    def made_of(self, probe: Probe) -> Literal["weights", "sum", "mean"]:
        """Whether a term is of weights only, a sum over rows, or else a mean."""
        parts, whole = self.parts(probe), self.look(1, probe.on_one()).gradient
        limit = 30 * self.facts.rounding * norm(whole)
        if all(norm(part - whole) <= limit for part in parts):
            return "weights"
        return "sum" if norm(sum(parts) - whole) <= limit else "mean"

    # -- noting

    def attempt(
        self, name: str, check: Callable[[], None], *, is_needed: bool = False
    ) -> None:
        """Runs a check, needed for a verdict or not; notes why it could not be run."""
        try:
            check()
        except NotRun as error:
            self.skip(name, str(error), unseen=is_needed)

    def skip(self, check: str, why: str, *, unseen: bool = False) -> None:
        """Notes what is not checked, and whether there is no verdict without it."""
        name = f"{check} on {self.replicas} replicas"
        self.skipped.append(Skipped(name, why, unseen))

    def find(
        self,
        cause: Cause,
        difference: Difference,
        *evidence: str,
        term: str = "",
        case: str = "",
    ) -> None:
        """Notes a cause, once."""
        found = cause.finding(self.replicas, difference.scale, *evidence, case=case)
        explanation = found.explanation
        if term:
            explanation += f" It is the term {term!r} of the loss."
        found = dataclasses.replace(
            found,
            residual=difference.residual,
            variables=tuple(self.facts.names[i] for i in difference.wrong),
            explanation=explanation,
        )
        known = {(f.cause, f.explanation) for f in self.findings}
        if (found.cause, explanation) not in known:
            self.findings.append(found)

"""The questions of one audit, and what their answers come to."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distloss._audit.answers import facts_of, observation, restrictions
from distloss._audit.checks import diagnosis
from distloss._audit.checks.baseline import Baseline, calibrated
from distloss._audit.checks.cause import Model
from distloss._audit.checks.causes.nondeterministic import NONDETERMINISTIC
from distloss._audit.checks.compare import NotRun, Observation, StepFacts
from distloss._audit.checks.probes import Probe
from distloss._audit.checks.table import CAUSES, remedy_for
from distloss._audit.conversation import ChildError, Children
from distloss._audit.opening import BATCH, check_divisor, opened, starts_apart
from distloss._audit.report.findings import Finding, Location, Measured, Report, Skipped
from distloss._audit.target import Target
from distloss._errors import AuditError

SLOW = 2.0  # seconds per step, from which on only what decides is probed
BUDGET = 150.0  # seconds, after which no probe begins that is not needed


class Observer:
    """Runs probes, each once, as long as there is time.

    Args:
      children: who run them.
      started: when the audit began, in seconds.
    """

    def __init__(self, children: Children, started: float) -> None:
        self._children, self._started = children, started
        self._seen: dict[tuple[int, Probe], Observation] = {}
        self._live: set[int] = set()
        self._seconds: dict[int, float] = {}

    def patient(self) -> bool:
        """Whether a step is fast enough to ask more than decides."""
        return max(self._seconds.values(), default=0.0) < SLOW

    def look(self, count: int, probe: Probe) -> Observation:
        """What `probe` shows on `count` replicas; runs it if it was not yet.

        Raises:
          NotRun: it could not be run.
        """
        key = (count, dataclasses.replace(probe, name=""))
        if key not in self._seen:
            self._seen[key] = self.run(count, probe)
        return self._seen[key]

    def run(self, count: int, probe: Probe) -> Observation:
        """The same, whether it was run before or not."""
        if count in self._children.failed:
            raise NotRun(self._children.failed[count])
        self._check_time(count, probe)
        plural = "s" * (count > 1)
        self._children.progress(f"{probe.name} on {count} replica{plural}")
        try:
            seen = observation(self._asked(count, probe), probe)
        except ChildError as error:
            if error.error is None:  # it is gone, or hangs
                self._children.failed[count] = str(error)
            raised = error.error is not None
            raise NotRun(str(error), raised=raised) from error
        self._seconds[count] = seen.seconds
        return seen

    def _asked(self, count: int, probe: Probe) -> list[dict[str, Any]]:
        if probe.batch_norm == "live" and count not in self._live:
            self._children.ask(count, "trace", batch_norm="live")
            self._live.add(count)
        asked = dataclasses.asdict(probe) | {"key": f"probe{len(self._seen)}"}
        return self._children.ask(count, "run", f" ({probe.name})", probe=asked)

    def _check_time(self, count: int, probe: Probe) -> None:
        needed = self._seconds.get(count, 0.0)
        gone = time.monotonic() - self._started
        if needed > SLOW and gone + needed > BUDGET:
            raise NotRun(
                f"a step on {count} replicas takes {needed:.0f} s, and the probes that "
                "decide took the time"
            )


@dataclass(frozen=True)
class Verdict:
    """What came of one session.

    Attributes:
      report: what is wrong, and what was measured.
      doubts: differences that may be rounding or more, by the number of replicas.
      patient: whether there is time to settle them.
    """

    report: Report
    doubts: dict[int, float]
    patient: bool


class Session:
    """One build, asked until there is a verdict.

    Args:
      children: one for each number of replicas.
      target: what is audited.
      started: when the audit began, in seconds.
      float64: whether the children compute in float64; then the batch and the weights
        are those of the session before.
    """

    def __init__(
        self, children: Children, target: Target, started: float, *, float64: bool
    ) -> None:
        self._children, self._target = children, target
        self._started, self._float64 = started, float64
        self._observer = Observer(children, started)
        self._ran = [1]
        self._findings: list[Finding] = []
        self._skipped: list[Skipped] = []
        self._measured: list[Measured] = []
        self._doubts: dict[int, float] = {}

    def verdict(self, engine: str) -> Verdict:
        """Asks everything.

        Raises:
          AuditError: the step could not be checked.
        """
        folder = self._target.folder
        opening = opened(self._children, folder, float64=self._float64)
        self._findings += opening.findings
        self._skipped += opening.skipped
        facts = self._facts(opening.rows).of_script(
            opening.always,
            opening.cut_from,
            self._target.splits,
            is_even=opening.is_even,
        )
        check_divisor(facts, opening)
        self._share_weights(facts)
        found = diagnosis.of_the_trace(self._observer.look, facts)
        if found:
            why = "the step changes no weight, so there is no update to compare"
            self._skipped.append(Skipped("other numbers of replicas", why))
            self._findings += self._told(found, facts)
        else:
            self._compare_with_one(facts)
        report = Report(
            self._target.name,
            engine,
            tuple(self._ran),
            tuple(self._findings),
            tuple(dict.fromkeys(self._skipped)),
            tuple(self._measured),
            time.monotonic() - self._started,
        )
        return Verdict(report, self._doubts, self._observer.patient())

    # -- before the first step

    def _facts(self, rows: int) -> StepFacts:
        """Has the step traced; what it consists of."""
        answers = self._children.ask_all("trace", fatal=(1,), batch_norm="frozen")
        traced = answers[1][0]
        self._skipped += restrictions(traced)
        facts = facts_of(traced, rows)
        if self._float64 and facts.eps > 2.0**-52:
            raise AuditError("the step computes in another dtype all the same")
        return facts

    def _share_weights(self, facts: StepFacts) -> None:
        path = self._path("weights.npz")
        if not self._float64:
            if facts.batch_norm:
                self._children.ask(1, "calibrate")
            self._children.ask(1, "save_weights", path=path)
        for count in self._children:
            if count not in self._children.failed and (count > 1 or self._float64):
                before = self._children.ask(count, "load_weights", path=path)
                self._skipped += starts_apart(count, before)

    def _path(self, name: str) -> str:
        return str(pathlib.Path(self._target.folder) / name)

    # -- judging

    def _compare_with_one(self, facts: StepFacts) -> None:
        """Looks at the step on one device, and compares others with it."""
        baseline = calibrated(self._observer.look, facts, self._observer.patient)
        diagnosis.look_at_one_device(baseline)
        self._findings += baseline.findings
        self._skipped += baseline.skipped
        if baseline.is_random:
            why = "two runs on one device differ, so no split can be compared"
            self._skipped.append(Skipped("other numbers of replicas", why))
        else:
            self._judge(baseline)

    def _judge(self, baseline: Baseline) -> None:
        """Compares each number of replicas with one."""
        failures = self._compare(baseline)
        known, noted = len(baseline.findings), len(baseline.skipped)
        diagnosis.look_at_one_device_again(baseline)
        self._findings += baseline.findings[known:]
        self._skipped += baseline.skipped[noted:]
        self._judge_builds(baseline)
        if failures and not self._findings:
            raise AuditError(failures[0])
        found = diagnosis.reviewed(self._findings)
        self._findings = self._told(found, baseline.facts)

    def _compare(self, baseline: Baseline) -> list[str]:
        """Each number of replicas with one; why some could not be run."""
        failures = []
        for count in sorted(set(self._children) - {1}):
            found = diagnosis.diagnosis(count, baseline, self._observer.patient)
            if found.failure:
                failures.append(found.failure)
            else:
                self._ran.append(count)
            self._findings += found.findings
            self._skipped += found.skipped
            self._measured += found.measured
            if found.doubt:
                self._doubts[count] = found.doubt
        return failures

    def _judge_builds(self, baseline: Baseline) -> None:
        """Where a cause is not certain: does build() make the same step each time?"""
        certain = [f for f in self._findings if not CAUSES[f.cause].may_be_chance]
        if len(certain) == len(self._findings):
            return
        try:
            apart = self._apart_when_built_again(baseline)
        except (ChildError, NotRun) as error:
            self._skipped.append(Skipped("building again", str(error)))
            return
        if apart:
            evidence = (
                "build() was called twice on one device; with the same weights and "
                f"rows, the two steps differ by {apart:.2g} of the gradient"
            )
            found = NONDETERMINISTIC.finding(1, 1.0, evidence)
            names = baseline.facts.names
            self._findings = [*certain, dataclasses.replace(found, variables=names)]

    def _apart_when_built_again(self, baseline: Baseline) -> float:
        """How far the step of another call of build() is off; 0 for rounding."""
        whole = baseline.whole()
        first = self._observer.look(1, whole)
        self._children.ask(1, "rebuild")
        self._children.ask(1, "load_batch", path=self._path(BATCH))
        self._children.ask(1, "trace", batch_norm="frozen")
        self._children.ask(1, "load_weights", path=self._path("weights.npz"))
        again = self._observer.run(1, dataclasses.replace(whole, name="built again"))
        return baseline.tolerance.apart(again, first)

    def _told(self, findings: Sequence[Finding], facts: StepFacts) -> list[Finding]:
        """The findings, with places in the user's code and advice for this model."""
        return self._advised(self._located(findings, facts))

    def _advised(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings, with remedies in terms of this model."""
        if not findings:
            return []
        try:
            model = Model(**self._children.ask(1, "advice")[0])
        except ChildError:
            return list(findings)  # in terms of any model, then
        return [
            dataclasses.replace(f, remedy=remedy_for(f.remedy, model)) for f in findings
        ]

    def _located(self, findings: Sequence[Finding], facts: StepFacts) -> list[Finding]:
        """The findings, with the place in the user's code where each comes from."""
        if not findings:
            return []
        try:
            places = self._children.ask(1, "places")[0]
        except ChildError:
            return list(findings)
        found = {what: Location(**place) for what, place in places.items()}
        if facts.clips_by_hand and not facts.clips and "loss" in found:
            found["optimizer"] = found["loss"]
        return [
            dataclasses.replace(f, location=found.get(CAUSES[f.cause].made_with))
            for f in findings
        ]

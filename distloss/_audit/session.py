"""The questions of one audit, and what their answers come to."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distloss._audit import conversation
from distloss._audit.checks import one_device
from distloss._audit.checks.causes import Model, remedy_for, words_of
from distloss._audit.checks.compare import Facts, Seen, norm
from distloss._audit.checks.dealt import Dealt, wrongly_dealt
from distloss._audit.checks.diagnosis import Diagnosis, NotRun
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Finding, Measured, Report, Skipped
from distloss._audit.target import Target
from distloss._errors import AuditError

REPORT = "report-only"

SLOW = 2.0  # seconds per step, from which on only what decides is probed
# Causes that a step could seem to have because build() draws random numbers.
UNSURE = {
    "unexplained",
    "not-decomposable",
    "not-linear-in-gradient",
    "variables-scaled-apart",
    "clip-before-sum",
    "batch-statistics",
}
BUDGET = 150.0  # seconds, after which no probe begins that is not needed


class Session:
    """The children, what was measured on them, and what is known so far."""

    def __init__(
        self,
        children: dict[int, conversation.Child],
        target: Target,
        progress: Callable[[str], None],
        started: float,
    ) -> None:
        self._children, self._target = children, target
        self._progress, self._started = progress, started
        self._seen: dict[tuple[int, Probe], Seen] = {}
        self._failed: dict[int, str] = {}
        self._live: set[int] = set()
        self._seconds: dict[int, float] = {}
        self._skipped: list[Skipped] = []
        self._findings: list[Finding] = []
        self._measured: list[Measured] = []
        self._ran = [1]
        self.doubts: dict[int, float] = {}  # differences that may be rounding, by N

    # -- before the first step

    def judge(self, *, float64: bool) -> None:
        """Asks everything. In float64 the batch and the weights are those of before."""
        self._ask_all("start", "loading TensorFlow")
        self._ask_all("load", "importing build")
        self._ask_all("build", "building")
        rows = self._answers[1][0]["rows"]
        if self._answers[1][0]["dataset"] and not float64:
            self._ask_all("deal", "dealing out a batch")
            chain = itertools.chain.from_iterable
            self._judge_dealt({n: list(chain(a)) for n, a in self._answers.items()})
        self._share_batch(known=float64)
        self._ask_all("trace", "tracing the step", fatal=(1,), batch_norm="frozen")
        facts = self._facts(rows)
        if float64 and facts.eps > 2.0**-52:
            raise AuditError("the step computes in another dtype all the same")
        self._share_weights(facts, known=float64)
        self._judge(facts)

    def _ask_all(
        self, name: str, words: str, fatal: Sequence[int] | None = None, **about: Any
    ) -> None:
        self._progress(words)
        asked = {n: c for n, c in self._children.items() if n not in self._failed}
        for child in asked.values():
            child.ask(name, **about)
        self._answers = {}
        for count, child in asked.items():
            try:
                self._answers[count] = child.answers()
            except conversation.ChildError as error:
                if fatal is None or count in fatal:
                    raise
                self._failed[count] = str(error)

    def _judge_dealt(self, dealt: dict[int, Dealt]) -> None:
        for count in sorted(set(dealt) - {1}):
            finding = wrongly_dealt(dealt[1], dealt[count])
            self._findings += [finding] if finding else []

    def _share_batch(self, *, known: bool) -> None:
        path = self._path("batch.npz")
        if not known:
            self._only(1, "save_batch", path=path)
        for count in self._children:
            if count > 1 or known:
                self._only(count, "load_batch", path=path)

    def _share_weights(self, facts: Facts, *, known: bool) -> None:
        path = self._path("weights.npz")
        if not known:
            if facts.batch_norm:
                self._only(1, "calibrate")
            self._only(1, "save_weights", path=path)
        for count in self._children:
            if (count > 1 or known) and count not in self._failed:
                self._only(count, "load_weights", path=path)

    def _only(self, count: int, name: str, **about: Any) -> Any:
        child = self._children[count]
        child.ask(name, **about)
        return child.answers()[0]

    def _path(self, name: str) -> str:
        return str(pathlib.Path(self._target.folder) / name)

    def _facts(self, rows: int) -> Facts:
        said = self._answers[1][0]
        self._lints = said["lints"]
        self._constants = said["constants"]
        self._batch_sizes = said["batch_sizes"]
        found = set(said["found"])
        if "randomness" in found:
            self._skipped.append(
                Skipped(
                    "randomness",
                    "pinned: dropout is off, and each row gets the same random numbers",
                )
            )
        if said["eager_because"]:
            self._skipped.append(
                Skipped(
                    "tracing",
                    "the step ran eagerly, since it cannot be a graph: "
                    f"{said['eager_because']}",
                )
            )
            self._skipped.append(
                Skipped(
                    "constants and weighted means",
                    "looked for in the graph of a step, and this one has none",
                )
            )
        return Facts(
            names=tuple(said["names"]),
            sizes=tuple(int(np.prod(shape)) for shape in said["shapes"]),
            eps=said["eps"],
            rows=rows,
            tapes=max(1, said["tapes"]),
            terms=tuple(sorted(found & {"added", "regularizers"})),
            clip="clip" in found,
            clips=tuple((how, tuple(whose)) for how, whose in said["clips"]),
            clips_by_hand=said["clips_by_hand"],
            adders=tuple(said["adders"]),
            outputs=tuple(said["outputs"]),
            batch_norm="batch_norm" in found,
            loss_scale=said["loss_scale"],
            is_keras=said["is_keras"],
        )

    # -- probing

    def look(self, count: int, probe: Probe) -> Seen:
        """What `probe` shows on `count` replicas; runs it if it was not yet."""
        key = (count, dataclasses.replace(probe, name=""))
        if key not in self._seen:
            self._seen[key] = self._run(count, probe)
        return self._seen[key]

    def _run(self, count: int, probe: Probe) -> Seen:
        if count in self._failed:
            raise NotRun(self._failed[count])
        self._check_time(count, probe)
        self._progress(f"{probe.name} on {count} replica{'s' * (count > 1)}")
        child = self._children[count]
        try:
            if probe.batch_norm == "live" and count not in self._live:
                child.ask("trace", batch_norm="live")
                child.answers()
                self._live.add(count)
            asked = dataclasses.asdict(probe) | {"key": f"probe{len(self._seen)}"}
            child.ask("run", f" ({probe.name})", probe=asked)
            answers = child.answers()
        except conversation.ChildError as error:
            if error.error is None:  # it is gone, or hangs
                self._failed[count] = str(error)
            raised = error.error is not None
            raise NotRun(str(error), raised=raised) from error
        seen = _as_seen(answers)
        self._seconds[count] = seen.seconds
        return seen

    def _check_time(self, count: int, probe: Probe) -> None:
        needed = self._seconds.get(count, 0.0)
        gone = time.monotonic() - self._started
        if needed > SLOW and gone + needed > BUDGET:
            raise NotRun(
                f"a step on {count} replicas takes {needed:.0f} s, and the probes that "
                "decide took the time"
            )

    # -- judging

    def _judge(self, facts: Facts) -> None:
        one = one_device.OneDevice(
            self.look, facts, self._lints, self._constants, self._batch_sizes
        )
        one.calibrate(patient=self.patient)
        self._findings += one.findings
        self._skipped += one.skipped
        if one.is_random:
            why = "two runs on one device differ, so no split can be compared"
            self._skipped.append(Skipped("other numbers of replicas", why))
            return
        failures = self._compare(one)
        one.check_after(self._findings)
        self._findings += one.late
        self._judge_builds(one)
        if failures and not self._findings:
            raise AuditError(failures[0])
        self._findings = _consistent(self._findings)
        self._advise()

    def _compare(self, one: one_device.OneDevice) -> list[str]:
        """Each number of replicas with one; why some could not be run."""
        failures = []
        for count in sorted(set(self._children) - {1}):
            diagnosis = Diagnosis(count, self.look, one.ruler())
            diagnosis.patient = self.patient
            diagnosis.accumulates = one.accumulates
            diagnosis.run()
            if diagnosis.failure:
                failures.append(diagnosis.failure)
            else:
                self._ran.append(count)
            self._findings += diagnosis.findings
            self._skipped += diagnosis.skipped
            self._measured += diagnosis.measured
            if diagnosis.doubt:
                self.doubts[count] = diagnosis.doubt
        return failures

    def _advise(self) -> None:
        """Puts the remedies in terms of this model."""
        if not self._findings:
            return
        try:
            model = Model(**self._only(1, "advice"))
        except conversation.ChildError:
            return  # for any model, then
        self._findings = [
            dataclasses.replace(f, remedy=remedy_for(f.remedy, model))
            for f in self._findings
        ]

    def _judge_builds(self, one: one_device.OneDevice) -> None:
        """Where a cause is not certain: does build() make the same step each time?"""
        if not {f.cause for f in self._findings} & UNSURE:
            return
        whole = self.look(1, one.whole())
        try:
            self._only(1, "rebuild")
            self._only(1, "load_batch", path=self._path("batch.npz"))
            self._only(1, "trace", batch_norm="frozen")
            self._only(1, "load_weights", path=self._path("weights.npz"))
            again = self._run(1, dataclasses.replace(one.whole(), name="built again"))
        except (conversation.ChildError, NotRun) as error:
            self._skipped.append(Skipped("building again", str(error)))
            return
        found = one.built_differently(whole, again)
        if found:
            self._findings = [f for f in self._findings if f.cause not in UNSURE]
            self._findings.append(found)

    def report(self, engine: str) -> Report:
        """What came of it."""
        return Report(
            self._target.name,
            engine,
            tuple(self._ran),
            tuple(self._findings),
            tuple(_without_repeats(self._skipped)),
            tuple(self._measured),
            time.monotonic() - self._started,
        )

    def patient(self) -> bool:
        """Whether a step is fast enough to ask more than decides."""
        return max(self._seconds.values(), default=0.0) < SLOW


def _consistent(findings: list[Finding]) -> list[Finding]:
    """`findings`, none of which calls the gradient right that another calls wrong."""
    if all(f.cause == REPORT for f in findings):
        return findings
    explanation, remedy = words_of(REPORT, "besides")
    return [
        dataclasses.replace(f, explanation=explanation, remedy=remedy)
        if f.cause == REPORT
        else f
        for f in findings
    ]


def _without_repeats(skipped: list[Skipped]) -> list[Skipped]:
    return list(dict.fromkeys(skipped))


def _as_seen(answers: list[dict[str, Any]]) -> Seen:
    """One `Seen` of what one process, or each rank, says."""
    gradients = [np.load(answer["path"]) for answer in answers]
    spread = max(answer["spread"] for answer in answers)
    size = norm(gradients[0])
    for gradient in gradients[1:]:
        apart = norm(gradient - gradients[0])
        if not np.array_equal(gradient, gradients[0], equal_nan=True):
            spread = max(spread, apart / max(size, norm(gradient)))
    for answer in answers:
        pathlib.Path(answer["path"]).unlink()
    return Seen(
        gradients[0],
        float(np.nan_to_num(spread, nan=np.inf)),
        tuple(sorted({s for answer in answers for s in answer["sources"]})),
        tuple(value for answer in answers for value in answer["loss"]),
        any(answer["moved"] for answer in answers),
        all(answer["weights_finite"] for answer in answers),
        answers[0]["size"],
        max(answer["seconds"] for answer in answers),
        max(answer["repeats"] for answer in answers),
        tuple(answers[0]["losses"]),
        answers[0]["moves_weights"],
    )

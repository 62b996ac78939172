"""Do the gradients agree however the batch is split, and if not, why?

Loads no TensorFlow: the steps run in child processes, one for each number of replicas.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distloss._audit import conversation, processes
from distloss._audit.acceptances import accepted, reasons
from distloss._audit.checks.table import CAUSES
from distloss._audit.report.findings import Finding, Report, Skipped
from distloss._audit.session import Session, Verdict
from distloss._audit.target import Target, folder_of, target_of
from distloss._errors import ArgumentError, ArgumentTypeError, AuditError
from distloss._settings import settings_for

Engine = Literal["strategy", "horovod"]
Devices = Literal["cpu", "gpu"]
ENGINES = ("strategy", "horovod")
Split = Literal["even", "uneven", "empty"]
SPLITS = ("even", "uneven", "empty")


def audit(  # noqa: PLR0913
    build: Callable[[], Any] | str,
    *,
    replicas: Sequence[int] | None = None,
    engine: Engine = "strategy",
    devices: Devices = "cpu",
    timeout: float | None = None,
    progress: Callable[[str], None] | None = None,
    args: Sequence[str] = (),
    rows: int | None = None,
    splits: Sequence[Split] | None = None,
    source: str | None = None,
) -> Report:
    """Runs one training step on one and on several replicas, and names what differs.

    Compared is the gradient that reaches the update rule (after unscaling, reduction
    and clipping), on even and uneven splits, with an empty shard, with clipping on and
    off, with an infinite row: see examples/guides/audit.md. Each number of replicas
    is a process of its own; nothing in this one changes.

    Args:
      build: takes nothing and returns `(model, batch)`. It is called inside
        `strategy.scope()`. `model` is a compiled model of Keras or tf-keras, or has
        `trainable_variables` and `train_step(batch)`, one update from a replica's
        part of the batch. If it has a method `dataset(context)`, a data set for
        `strategy.distribute_datasets_from_function`, who gets which rows of its first
        batch is looked at, too. `batch` is the global batch, whatever `fit` takes: `x`,
        `(x, y)`, `(x, y, sample_weight)`, dictionaries, a batched data set of such
        (of which the first is taken). A compiled model gets it as `fit` hands it to a
        step; a step of one's own as `build` returned it. Or the address of `build`:
        "file.py:build", "package.module:build". Or a script without a `build`,
        "train.py", which is run up to its first training step.
      replicas: how many; the first is always 1, added if it is missing. None for those
        of `[tool.distloss]` in the project's pyproject.toml, or (1, 2, 4).
      engine: "strategy" for `tf.distribute`, "horovod" for Horovod processes on this
        machine.
      devices: "cpu" for virtual CPUs, "gpu" for the GPUs of this machine.
      timeout: seconds that importing, building, tracing or a step may take each; None
        for defaults.
      progress: called with what is being done, in a few words.
      args: the arguments of a script.
      rows: of the batch of a script, at most; None for what makes a step quick.
      splits: of the batch that are probed, of "even" (always), "uneven" and "empty".
        None for those that can occur: of a script whose batches all have as many rows,
        which the replicas share evenly, only that.
      source: what to run in place of what is in the file of a script or of `build`, as
        if it were in there; None for what is in there. Who reads or imports that file
        by itself sees what is in there.

    Returns:
      a frozen `Report`. What `[tool.distloss]` accepts has its reason in the finding's
      `accepted`; `Report.passes` says whether there is nothing else.

    Raises:
      ArgumentError, ArgumentTypeError: an argument, or a setting, is of a wrong kind or
        value.
      AuditError: the step could not be checked: `build` raised, hung, returned
        something else, or the step cannot run.

    Example:
      >>> from distloss import audit
      >>> try:
      ...     audit("nowhere.py:build")
      ... except ValueError as error:
      ...     print(error)
      Expected a Python file. Got nowhere.py, which is not there.
    """
    if os.environ.get("DISTLOSS_AUDIT") == "child":
        raise AuditError(
            "audit() was called while the file of build was imported by the audit. "
            "Call it under `if __name__ == '__main__':`."
        )
    project = settings_for(folder_of(build))
    why_accepted = reasons(project, build)
    counts = _checked_counts(project.replicas if replicas is None else replicas)
    _check_choices(engine, devices)
    _check_timeout(timeout)
    _check_rows(rows)
    _check_splits(splits)
    with processes.folder() as folder:
        target = dataclasses.replace(
            target_of(build, pathlib.Path(folder), args, source),
            splits=None if splits is None else tuple(splits),
        )
        target.settings["rows"] = rows
        run = _Run(target, engine, devices, timeout, progress or _quiet)
        return accepted(run.report(counts), why_accepted)


@dataclass(frozen=True)
class _Run:
    """One audit: a session, and one in float64 where that must decide."""

    target: Target
    engine: Engine
    devices: Devices
    timeout: float | None
    progress: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)

    def report(self, counts: Sequence[int]) -> Report:
        first = self.verdict(counts, float64=False)
        if first.doubts and first.patient:
            return _decided(first, self.verdict)
        return first.report

    def verdict(self, counts: Sequence[int], *, float64: bool) -> Verdict:
        own = {
            "folder": self.target.folder,
            "devices": self.devices,
            "target": self.target.settings,
            "float64": float64,
        }
        with processes.children(counts, own, self.engine) as started:
            for child in started.values():
                child.limits = conversation.Limits.all(self.timeout)
            children = conversation.Children(started, self.progress)
            session = Session(children, self.target, self.started, float64=float64)
            return session.verdict(self.engine)


def _decided(first: Verdict, verdict: Callable[..., Verdict]) -> Report:
    """The report, with what may be rounding decided by the same step in float64."""
    report, doubts = first.report, first.doubts
    where = ", ".join(map(str, doubts))
    check = f"rounding on {where} replicas"
    worst = f"a difference of {max(doubts.values()):.1g} may be rounding or more"
    try:
        shadow = verdict([1, *doubts], float64=True).report
    except AuditError as error:
        why = f"{worst}; float64, which would decide, did not run: {error}"
        return dataclasses.replace(
            report, skipped=(*report.skipped, Skipped(check, why, unseen=True))
        )
    found = [
        dataclasses.replace(f, evidence=(*f.evidence, "all of it in float64"))
        for f in shadow.findings
        if f.replicas in doubts and not _is_no_rounding(f)
    ]
    kept = [
        f for f in report.findings if f.replicas not in doubts or _is_no_rounding(f)
    ]
    measured = [m for m in report.measured if m.replicas not in doubts]
    decided = Skipped(check, f"{worst}: decided by the same step in float64")
    return dataclasses.replace(
        report,
        findings=(*kept, *found),
        skipped=(*report.skipped, decided),
        measured=(*measured, *(m for m in shadow.measured if m.replicas in doubts)),
    )


def _is_no_rounding(finding: Finding) -> bool:
    """What float64 need not show: an overflow, a NaN, a step that raises."""
    return CAUSES[finding.cause].beyond_rounding or math.isnan(finding.scale)


def _quiet(_text: str) -> None:
    """Says nothing."""


def _checked_counts(replicas: Any) -> list[int]:
    wanted = "Expected replicas= to be numbers of replicas such as (1, 2, 4)."
    if isinstance(replicas, str) or not isinstance(replicas, Sequence):
        raise ArgumentTypeError(f"{wanted} Got replicas={replicas!r}.")
    for count in replicas:
        if isinstance(count, bool) or not isinstance(count, int):
            raise ArgumentTypeError(f"{wanted} Got replicas={replicas!r}.")
        if not 1 <= count <= 64:
            raise ArgumentError(f"{wanted} From 1 to 64 each. Got {count}.")
    counts = sorted({1, *replicas})
    if len(counts) == 1:
        raise ArgumentError(f"{wanted} One of them above 1. Got replicas={replicas!r}.")
    return counts


def _check_choices(engine: str, devices: str) -> None:
    if engine not in ENGINES:
        raise ArgumentError(f"Expected engine= one of {ENGINES}. Got {engine!r}.")
    if devices not in ("cpu", "gpu"):
        raise ArgumentError(f"Expected devices= 'cpu' or 'gpu'. Got {devices!r}.")


def _check_rows(rows: Any) -> None:
    wanted = "Expected rows= to be a number of rows above 1, or None."
    if rows is None:
        return
    if isinstance(rows, bool) or not isinstance(rows, int):
        raise ArgumentTypeError(f"{wanted} Got rows={rows!r}.")
    if rows < 2:
        raise ArgumentError(f"{wanted} Got rows={rows!r}.")


def _check_splits(splits: Any) -> None:
    if splits is None:
        return
    wanted = f"Expected splits= some of {SPLITS}, or None."
    if isinstance(splits, str) or not isinstance(splits, Sequence):
        raise ArgumentTypeError(f"{wanted} Got splits={splits!r}.")
    if not splits or not set(splits) <= set(SPLITS):
        raise ArgumentError(f"{wanted} Got splits={splits!r}.")


def _check_timeout(timeout: Any) -> None:
    wanted = "Expected timeout= to be a number of seconds above 0, or None."
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real):
        raise ArgumentTypeError(f"{wanted} Got timeout={timeout!r}.")
    if not 0 < float(timeout) < math.inf:  # NaN is not
        raise ArgumentError(f"{wanted} Got timeout={timeout!r}.")

"""One case audited in children that are forks of one process, and what came of it."""

import multiprocessing.forkserver
import os
import pathlib
import random
import resource
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import pytest

HELPERS = pathlib.Path(__file__).parents[2] / "tests" / "helpers"
sys.path.append(str(HELPERS))

import forked  # noqa: E402

import distloss  # noqa: E402
from distloss._audit import processes  # noqa: E402

# Of replicas. Processes of Horovod each load TensorFlow, so these are fewer.
COUNTS = {"strategy": ((1, 3), (1, 4)), "horovod": ((1, 2), (1, 3))}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Case:
    """What is audited: as a `build`, it is handed to each child of the audit.

    Attributes:
      seed: of all that is drawn.
      mutation: that is planted; "" for a right step.
      kind: of the step, or the mutation's own name.
      splits: of the batch that the audit probes.
      engine: of the audit.
      causes: of which each is right; none for a right step.
      beside: causes that the same mistake may show as well.
    """

    seed: int
    mutation: str
    kind: str
    splits: tuple[str, ...]
    engine: str
    causes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __call__(self) -> Any:
        """What `build` returns."""
        from _right_models import cases

        return cases.step_of(self)

    @property
    def command(self) -> str:
        """That repeats it alone."""
        options = " --mutants" * bool(self.mutation)
        return f"python scripts/right_models.py --seed {self.seed} --count 1{options}"


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
      seed, mutation, kind: of the case.
      verdict: of `VERDICTS`.
      found: causes, or the error.
      evidence: of what was found.
      cpu, seconds: that it took.
      command: that repeats it.
    """

    seed: int
    mutation: str
    kind: str
    verdict: str
    found: tuple[str, ...]
    evidence: tuple[str, ...]
    cpu: float
    seconds: float
    command: str

    as_record = asdict


# Of right steps the first two, of mutants those from the third; either may crash.
VERDICTS = ("agrees", "alarm", "right cause", "cannot tell", "wrong cause")
VERDICTS += ("called right", "crash")


def fork_from_one_process(monkeypatch: Any = None) -> None:
    """Has the children of audits be forks of one process, until that is undone."""
    of_audit = processes._process
    monkeypatch = monkeypatch or pytest.MonkeyPatch()
    forked.fork_children(monkeypatch)

    def process(command: list[str], *others: Any) -> Any:
        """Horovod starts its own processes."""
        is_horovod = "horovodrun" in command[0]
        return (of_audit if is_horovod else forked.Forked)(command, *others)

    monkeypatch.setattr(processes, "_process", process)


def outcome_of(case: Case) -> Outcome:
    """Audits it."""
    before, started = _cpu(), time.monotonic()
    verdict, found, evidence = _verdict(case)
    return Outcome(
        case.seed,
        case.mutation,
        case.kind,
        verdict,
        found,
        evidence,
        round(_cpu() - before, 2),
        round(time.monotonic() - started, 2),
        case.command,
    )


def _verdict(case: Case) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    counts = random.Random(case.seed).choice(COUNTS[case.engine])
    try:
        report = distloss.audit(
            case, replicas=counts, engine=case.engine, splits=case.splits
        )
    except Exception as error:  # of this case only: the others are still to come
        return "crash", (type(error).__name__,), (str(error)[-1500:],)
    found = tuple(dict.fromkeys(finding.cause for finding in report.findings))
    evidence = tuple(text for one in report.findings for text in one.evidence)
    if not case.causes:
        return ("alarm" if found else "agrees"), found, evidence
    return judged(found, case), found, evidence


def judged(found: tuple[str, ...], case: Case) -> str:
    """What is to be said of the causes that were found for a mutant."""
    if not found:
        return "called right"
    if {*found} == {"unexplained"}:
        return "cannot tell"
    names = {*found} & {*case.causes} and {*found} <= {*case.causes, *case.beside}
    return "right cause" if names else "wrong cause"


def _cpu() -> float:
    """Seconds that all children took that have ended, of forks and of others."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    server = multiprocessing.forkserver._forkserver._forkserver_pid
    status = pathlib.Path(f"/proc/{server}/stat").read_text().rpartition(")")[2]
    ticks = sum(map(int, status.split()[11:15]))
    return used.ru_utime + used.ru_stime + ticks / TICKS

"""What is asked before the first step: everything is built, one batch is for all."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distloss._audit.checks import diagnosis
from distloss._audit.checks.causes.sharding import GROWS_WITH_REPLICAS
from distloss._audit.checks.compare import StepFacts
from distloss._audit.conversation import Children
from distloss._audit.report.findings import Finding, Skipped
from distloss._errors import AuditError

BATCH = "batch.npz"


@dataclass(frozen=True)
class Opening:
    """What is known once all is built, and everybody has the same batch.

    Attributes:
      rows: of that batch.
      always: how many rows all batches of a script have; 0 if that is not known.
      is_even: whether processes have as many rows as each other in each batch, as far
        as is known.
      of_process: how many rows each process takes by itself; 0 if none does.
      cut_from: how many rows the batch had before it was cut; 0 if it was not.
      findings: what is wrong with who gets which rows.
      skipped: what a script says, and is not done.
    """

    rows: int
    always: int = 0
    is_even: bool = False
    of_process: int = 0
    cut_from: int = 0
    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def opened(children: Children, folder: str, *, float64: bool) -> Opening:
    """Has each child build its step, and take the same batch.

    Args:
      children: one for each number of replicas.
      folder: for the batch.
      float64: whether the batch of the session before is to be taken.

    Raises:
      AuditError: one could not be built.
    """
    children.ask_all("start")
    children.ask_all("load")
    about = _merged(children.ask_all("build"))
    is_part = about[1]["is_part"]
    source, is_told = max(children) if is_part else 1, _grows(about)
    if is_told:
        # With the number of replicas grows the batch: whoever computes its size from
        # that number hears the same one, and the child that has it has that batch.
        source = max(children)
        about = _merged(children.ask_all("rebuild", told=source))
    findings = []
    if about[1]["dataset"] and not float64:
        findings = _dealt_wrongly(children, is_part=is_part)
        if is_told:  # it was meant to
            unmeant = GROWS_WITH_REPLICAS.slug
            findings = [f for f in findings if f.cause != unmeant]
    path = str(pathlib.Path(folder) / BATCH)
    if is_part and not float64:
        children.ask(source, "save_part", path=path)
        children.ask(source, "join_parts", path=path)
    _share(children, source, path, float64=float64, is_saved=is_part)
    notes = [Skipped(check, why) for check, why in about[source]["notes"]]
    own = about[source]
    cut_from = own["rows_of_script"] if own["rows_of_script"] > own["rows"] else 0
    return Opening(
        own["rows"],
        own["always"],
        own["is_even"],
        own["of_process"],
        cut_from,
        findings,
        notes,
    )


def check_divisor(facts: StepFacts, opening: Opening) -> None:
    """Refuses a step that divides by the rows of one process, which the audit changes.

    Raises:
      AuditError: it does.
    """
    rows = opening.of_process
    if rows < opening.rows and rows in {*facts.constants, *facts.batch_sizes}:
        raise AuditError(
            "Expected a step that divides by the rows that it is given. Got one that "
            f"divides by the constant {rows}, as many as the first batch of a process "
            "has: other numbers of processes share the same batch here, and each has "
            "other rows. Write a function build() that returns (model, batch), whose "
            "step divides by rows that it counts, and audit that."
        )


def _merged(answers: dict[int, list[Any]]) -> dict[int, Any]:
    """What is known of each number of replicas; of processes, with all their rows."""
    return {count: _of_all(every) for count, every in answers.items()}


def _of_all(every: list[Any]) -> Any:
    first = every[0]
    if not first["is_part"]:
        return first | {"is_even": False, "of_process": 0}
    sums = {name: sum(x[name] for x in every) for name in ("rows", "rows_of_script")}
    full = [one["always"] for one in every]
    alike = len({(one["rows_of_script"], one["count"]) for one in every}) == 1
    others = {
        "always": sum(full) if len({*full}) == 1 else 0,
        "of_process": first["rows_of_script"],
        "is_even": alike and bool(first["count"]),
        "counts_replicas": any(one["counts_replicas"] for one in every),
        "dataset": True,
    }
    return first | sums | others


def _grows(about: dict[int, Any]) -> bool:
    """Whether a script gives more rows to more replicas, whose number it asks for."""
    rows = {one["rows_of_script"] for one in about.values()}
    return len(rows) > 1 and all(one["counts_replicas"] for one in about.values())


def _dealt_wrongly(children: Children, *, is_part: bool) -> list[Finding]:
    answers = children.ask_all("sharding")
    rows = {n: [*itertools.chain.from_iterable(a)] for n, a in answers.items()}
    if is_part:  # each process draws rows by itself, and may draw one that another did
        rows = {n: parts for n, parts in rows.items() if n == 1 or _are_alike(parts)}
        rows[1] = []
    return [
        finding
        for count in sorted(set(rows) - {1})
        for finding in diagnosis.sharding_of(rows[1], rows[count])
    ]


def _are_alike(parts: list[list[str]]) -> bool:
    """Whether two processes have the same rows, and not the same row all the time."""
    several = [tuple(sorted(part)) for part in parts if len({*part}) > 1]
    return len({*several}) < len(several)


def _share(
    children: Children, source: int, path: str, *, float64: bool, is_saved: bool
) -> None:
    if not (float64 or is_saved):
        children.ask(source, "save_batch", path=path)
    for count in children:
        if count != source or float64:
            children.ask(count, "load_batch", path=path)


def starts_apart(count: int, digests: Sequence[str]) -> list[Skipped]:
    """That processes came with weights of their own, where the audit hides it.

    Whether somebody broadcasts them later is not known: it is no part of a step.
    """
    if len(set(digests)) < 2:
        return []
    why = (
        f"build() gave each of {count} processes other weights, and the audit gave all "
        "of them those of one; broadcast them before the first step"
    )
    return [Skipped("starting weights", why, unseen=True)]

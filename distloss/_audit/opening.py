"""What is asked before the first step: everything is built, one batch is for all."""

from __future__ import annotations

import itertools
import pathlib
from dataclasses import dataclass, field
from typing import Any

from distloss._audit.checks import diagnosis
from distloss._audit.checks.causes.sharding import GROWS_WITH_REPLICAS
from distloss._audit.conversation import Children
from distloss._audit.report.findings import Finding, Skipped

BATCH = "batch.npz"


@dataclass(frozen=True)
class Opening:
    """What is known once all is built, and everybody has the same batch.

    Attributes:
      rows: of that batch.
      always: how many rows all batches of a script have; 0 if that is not known.
      cut_from: how many rows the batch had before it was cut; 0 if it was not.
      findings: what is wrong with who gets which rows.
      skipped: what a script says, and is not done.
    """

    rows: int
    always: int = 0
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
    about = _first(children.ask_all("build"))
    source, is_told = 1, _grows(about)
    if is_told:
        # With the number of replicas grows the batch: whoever computes its size from
        # that number hears the same one, and the child that has it has that batch.
        source = max(children)
        about = _first(children.ask_all("rebuild", told=source))
    findings = []
    if about[1]["dataset"] and not float64:
        findings = _dealt_wrongly(children)
        if is_told:  # it was meant to
            unmeant = GROWS_WITH_REPLICAS.slug
            findings = [f for f in findings if f.cause != unmeant]
    _share(children, source, str(pathlib.Path(folder) / BATCH), float64=float64)
    notes = [Skipped(check, why) for check, why in about[source]["notes"]]
    own = about[source]
    cut_from = own["rows_of_script"] if own["rows_of_script"] > own["rows"] else 0
    return Opening(own["rows"], own["always"], cut_from, findings, notes)


def _first(answers: dict[int, list[Any]]) -> dict[int, Any]:
    return {count: every[0] for count, every in answers.items()}


def _grows(about: dict[int, Any]) -> bool:
    """Whether a script gives more rows to more replicas, whose number it asks for."""
    rows = {one["rows_of_script"] for one in about.values()}
    return len(rows) > 1 and all(one["counts_replicas"] for one in about.values())


def _dealt_wrongly(children: Children) -> list[Finding]:
    answers = children.ask_all("sharding")
    rows = {n: [*itertools.chain.from_iterable(a)] for n, a in answers.items()}
    return [
        finding
        for count in sorted(set(rows) - {1})
        for finding in diagnosis.sharding_of(rows[1], rows[count])
    ]


def _share(children: Children, source: int, path: str, *, float64: bool) -> None:
    if not float64:
        children.ask(source, "save_batch", path=path)
    for count in children:
        if count != source or float64:
            children.ask(count, "load_batch", path=path)

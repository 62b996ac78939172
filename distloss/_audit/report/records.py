"""Findings as the formats of other tools want them."""

from __future__ import annotations

import os

from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import Finding, Report
from distloss._audit.report.printable import printable
from distloss._audit.report.wording import causes, headline
from distloss._formats.record import Problem, Record


def records(audits: Audits) -> list[Record]:
    """One for each cause of each target, seen on however many replicas."""
    return [
        _record(group, file_of(report.target))
        for report in audits.reports
        for group in causes(report)
    ]


def failures(audits: Audits) -> list[Problem]:
    """The targets that could not be checked, or of which nothing can be told."""
    found = [
        Problem(printable(f"{one.target}: {one.why}"), file_of(one.target))
        for one in audits.unchecked
    ]
    return found + [
        Problem(printable(f"{one.target}: {headline(one)}"), file_of(one.target))
        for one in audits.reports
        if one.answer == "cannot tell"
    ]


def restrictions(audits: Audits) -> list[Problem]:
    """What was not checked of the others."""
    return [problem for report in audits.reports for problem in _skipped(report)]


def _skipped(report: Report) -> list[Problem]:
    file = file_of(report.target)
    return [
        Problem(printable(f"{one.check}: {one.why}"), file, severity="hint")
        for one in report.skipped
        if not (one.unseen and report.answer == "cannot tell")
    ]


def _record(group: list[Finding], file: str | None) -> Record:
    first = group[0]
    seen = dict.fromkeys(line for finding in group for line in finding.evidence)
    message = first.explanation
    if seen:
        message += f" Seen: {'; '.join(seen)}."
    if first.certainty == "likely":
        message = f"Likely: {message}"
    if first.accepted:
        message = f"Accepted: {first.accepted} {message}"
    where = first.location
    return Record(
        rule=printable(first.cause),
        severity="hint" if first.accepted else "error",
        message=printable(message),
        remedy="" if first.accepted else printable(first.remedy),
        file=printable(where.file) if where else file,
        line=where.line if where else None,
        help=printable(f"{first.explanation} {first.remedy}"),
        accepted=printable(first.accepted),
    )


def file_of(target: str) -> str | None:
    """The file that the address of a target means, if it is there."""
    place = target if target.endswith(".py") else target.rpartition(":")[0]
    for path in (place, place.replace(".", "/") + ".py"):
        if os.path.isfile(path):
            return printable(path)
    return None

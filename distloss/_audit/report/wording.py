"""The words of a report, the same in text and HTML."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from distloss._audit.report.printable import printable

if TYPE_CHECKING:
    from distloss._audit.report.audits import Audits
    from distloss._audit.report.findings import Finding, Measured, Report


def causes(report: Report) -> list[list[Finding]]:
    """The findings, those of one cause on several numbers of replicas together."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.cause, finding.explanation), []).append(finding)
    return list(groups.values())


def subject(report: Report) -> str:
    """What was audited, and on how many replicas."""
    counts = ", ".join(map(str, report.replicas))
    return f"{report.target} on {counts} replicas ({report.engine})"


def headline(report: Report) -> str:
    """The verdict in one line."""
    if report.agrees:
        return "Gradients agree: one batch, one update, however it is split."
    if report.answer == "cannot tell":
        return f"Cannot tell whether gradients agree. {' '.join(unseen(report))}"
    wrong = _causes(f for f in report.findings if not f.accepted)
    accepted = _causes(f for f in report.findings if f.accepted)
    same = report.measured and all(one.agrees for one in report.measured)
    if same and "not-reduced" not in (*wrong, *accepted):
        told = "Gradients agree on each split that ran"
        told += f"; wrong all the same: {', '.join(wrong)}." if wrong else "."
    else:
        told = (
            f"Gradients differ: {', '.join(wrong)}." if wrong else "Gradients differ."
        )
    return f"{told} Accepted: {', '.join(accepted)}." if accepted else told


def unseen(report: Report) -> list[str]:
    """What was not seen without which there is no verdict, in sentences."""
    return [f"Not seen: {s.check}: {s.why}." for s in report.skipped if s.unseen]


def named(finding: Finding) -> str:
    """The cause, and that it is only likely where it is."""
    likely = " (likely)" * (finding.certainty == "likely")
    return f"{finding.cause}{likely}"


def _causes(findings: Iterable[Finding]) -> list[str]:
    """The names of causes, each once."""
    return list(dict.fromkeys(finding.cause for finding in findings))


def summary(audits: Audits) -> str:
    """How many targets agree, in one line."""
    unknown = sum(report.answer == "cannot tell" for report in audits.reports)
    passing = sum(report.passes for report in audits.reports)
    counts = {
        "agree": sum(report.agrees for report in audits.reports),
        "differ": len(audits.reports) - passing - unknown,
        "cannot be told": unknown,
        "could not be checked": len(audits.unchecked),
    }
    counts["differ as accepted"] = passing - counts["agree"]
    told = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    return f"Of {sum(counts.values())} targets: {told}."


def advice(finding: Finding) -> str:
    """What to change, or why nothing is."""
    if finding.accepted:
        return f"Accepted: {finding.accepted}"
    return f"To mend it: {finding.remedy}"


def place(finding: Finding) -> str:
    """Where in the user's code to look; "" where that is not known."""
    where = finding.location
    return printable(f"{where} ({where.call})") if where else ""


def lines_around(finding: Finding, most: int = 3) -> list[tuple[int, str]]:
    """The source around that place, with the numbers of its lines; if it is there."""
    where = finding.location
    if where is None:
        return []
    try:
        source = pathlib.Path(where.file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # it is elsewhere now, or no text
        return []
    first, last = max(1, where.line - most), where.line + most
    numbered = enumerate(source[first - 1 : last], first)
    return [(line, printable(text)) for line, text in numbered]


def number(value: float, digits: int) -> str:
    """A number of a finding; a dash for NaN, which was not measured or not finite."""
    return f"{value:.{digits}g}" if value == value else "-"


def verdict(one: Measured) -> str:
    """What a probe said, in a few words."""
    if one.agrees:
        return "same"
    if one.scale != one.scale:
        return "not finite"
    if one.residual < 1e-3:
        return f"{one.scale:.3g} times"
    return f"{one.scale:.3g} times, {100 * min(one.residual, 1):.2g} % elsewhere"


def probes(report: Report) -> tuple[list[int], dict[str, dict[int, Measured]]]:
    """The numbers of replicas, and what each probe said on each."""
    table: dict[str, dict[int, Measured]] = {}
    for one in report.measured:
        table.setdefault(one.probe, {}).setdefault(one.replicas, one)
    return sorted({one.replicas for one in report.measured}), table


def short(names: tuple[str, ...], most: int = 4) -> str:
    """Names of variables, not too many."""
    shown = ", ".join(printable(name) for name in names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown

"""The words of a report, the same in text and HTML."""

from __future__ import annotations

import pathlib

from distloss._audit.report.findings import Finding, Measured, Report
from distloss._audit.report.printable import printable


def causes(report: Report) -> list[list[Finding]]:
    """The findings, those of one cause on several numbers of replicas together."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.cause, finding.explanation), []).append(finding)
    return list(groups.values())


def headline(report: Report) -> str:
    """The verdict in one line."""
    if report.agrees:
        return "Gradients agree: one batch, one update, however it is split."
    causes = list(dict.fromkeys(f.cause for f in report.findings))
    names = ", ".join(causes)
    same = report.measured and all(one.agrees for one in report.measured)
    if same and "not-reduced" not in causes:
        return f"Gradients agree on each split that ran; wrong all the same: {names}."
    return f"Gradients differ: {names}."


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

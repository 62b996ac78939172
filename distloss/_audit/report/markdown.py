"""Reports as Markdown, as GitHub shows it: text of users is text, whatever is in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import Finding, Report
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.printable import printable
from distloss._audit.report.wording import (
    advice,
    causes,
    headline,
    named,
    number,
    place,
    probes,
    short,
    subject,
    summary,
    verdict,
)

# What begins something else than text; a backslash before it makes it text again.
_SYNTAX = re.compile(r"([\\`*_{}\[\]<>()#+!|~$&])")


def markdown(audits: Audits, _terminal: Terminal) -> str:
    """All reports, each with a heading."""
    parts = [part for report in audits.reports for part in _report(report)]
    parts += [
        f"### distloss audit: {_text(one.target)}\n\n"
        f"**It could not be checked.** {_text(one.why)}"
        for one in audits.unchecked
    ]
    parts += [summary(audits)] if audits.several else []
    return "".join(f"{part}\n\n" for part in parts)


def _report(report: Report) -> list[str]:
    title = f"### distloss audit: {_text(subject(report))}"
    parts = [title, f"**{_text(headline(report))}**"]
    for group in causes(report):
        parts += _cause(group)
    parts += _probes(report)
    if report.skipped:
        notes = [f"{one.check}: {one.why}" for one in report.skipped]
        parts.append("\n".join(f"- Note: {_text(note)}" for note in notes))
    return parts


def _cause(group: list[Finding]) -> list[str]:
    first = group[0]
    rows = [
        (
            str(one.replicas),
            number(one.scale, 4),
            number(one.residual, 2),
            "; ".join(one.evidence),
        )
        for one in group
    ]
    parts = [f"#### {_text(named(first))}", _text(first.explanation)]
    parts.append(_table(("replicas", "scale", "residual", "seen"), rows))
    parts += [_text(f"Variables: {short(first.variables)}")] * bool(first.variables)
    parts += [_text(f"Look at: {place(first)}")] * bool(first.location)
    return [*parts, _text(advice(first))]


def _probes(report: Report) -> list[str]:
    counts, table = probes(report)
    if not counts:
        return []
    rows = [
        (name, *(verdict(row[n]) if n in row else "-" for n in counts))
        for name, row in table.items()
    ]
    head = ("probe", *(f"{n} replicas" for n in counts))
    title = "<summary>The gradient, compared with one replica</summary>"
    return [f"<details>{title}", _table(head, rows), "</details>"]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(map(_text, row)) for row in (head, *rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _text(text: str) -> str:
    return _SYNTAX.sub(r"\\\1", printable(text))


FORMAT = Format("markdown", markdown)

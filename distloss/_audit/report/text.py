"""A report as text for a terminal, with frames and colours."""

from __future__ import annotations

import io
from typing import Any

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


def text(audits: Audits, terminal: Terminal) -> str:
    """All reports; the coding decides what frames are drawn with."""
    from rich.console import Console

    written = io.BytesIO()
    into = io.TextIOWrapper(written, terminal.coding, "backslashreplace", newline="\n")
    console = Console(
        file=into,
        force_terminal=terminal.colours,
        color_system="standard" if terminal.colours else None,
        width=terminal.width or (None if terminal.colours else 100),
        highlight=False,
    )
    for report in audits.reports:
        _print_report(console, report)
        if audits.several:
            console.print()
    if audits.several:
        console.print(summary(audits))
    into.flush()
    return written.getvalue().decode(terminal.coding)


def _print_report(console: Any, report: Report) -> None:
    _print_head(console, report)
    for group in causes(report):
        _print_cause(console, group)
    _print_probes(console, report)
    _print_skipped(console, report)


def _print_head(console: Any, report: Report) -> None:
    from rich.text import Text

    console.print(Text(printable(f"distloss audit: {subject(report)}"), "dim"))
    style = "bold green" if report.passes else "bold red"
    console.print(Text(printable(headline(report)), style))


def _print_cause(console: Any, group: list[Finding]) -> None:
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    first = group[0]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("replicas", "scale", "residual"):
        table.add_column(name, justify="right")
    table.add_column("seen", overflow="fold")
    for finding in group:
        numbers = [number(finding.scale, 4), number(finding.residual, 2)]
        seen = Text("; ".join(printable(line) for line in finding.evidence))
        table.add_row(str(finding.replicas), *numbers, seen)
    parts: list[Any] = [Text(printable(first.explanation)), Text(""), table]
    if first.variables:
        parts += [Text(""), Text(f"Variables: {short(first.variables)}")]
    if place(first):
        parts += [Text(""), Text(f"Look at: {place(first)}", "bold")]
    parts += [Text(""), Text(printable(advice(first)), "cyan")]
    title = Text(printable(named(first)), "bold")
    console.print(Panel(Group(*parts), title=title, title_align="left"))


def _print_probes(console: Any, report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    counts, table = probes(report)
    if not counts:
        return
    shown = Table(title="The gradient, compared with one replica", title_justify="left")
    shown.add_column("probe")
    for count in counts:
        shown.add_column(f"{count} replicas")
    for name, row in table.items():
        cells = []
        for count in counts:
            one = row.get(count)
            said = "-" if one is None else verdict(one)
            good = one is None or one.agrees
            cells.append(Text(said, "green" if good else "red"))
        shown.add_row(Text(printable(name)), *cells)
    console.print(shown)


def _print_skipped(console: Any, report: Report) -> None:
    from rich.text import Text

    for one in report.skipped:
        console.print(Text(printable(f"Note: {one.check}: {one.why}"), "yellow"))
    console.print(Text(f"{report.seconds:.0f} s", "dim"))


FORMAT = Format("text", text, needs=("rich",))

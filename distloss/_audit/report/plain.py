"""A report as lines of text, for where there is no rich."""

from __future__ import annotations

from distloss._audit.report.audits import Audits
from distloss._audit.report.findings import Report
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.printable import printable
from distloss._audit.report.wording import (
    advice,
    causes,
    headline,
    named,
    number,
    place,
    short,
    summary,
)


def plain(audits: Audits, _terminal: Terminal) -> str:
    """All reports."""
    if not audits.several:
        return "".join(map(_report, audits.reports))
    named = [f"{printable(r.target)}\n{_report(r)}\n" for r in audits.reports]
    return "".join(named) + f"{summary(audits)}\n"


def _report(report: Report) -> str:
    lines = [headline(report)]
    for group in causes(report):
        first = group[0]
        lines += ["", f"{named(first)}: {first.explanation}"]
        for one in group:
            seen = "; ".join(one.evidence)
            lines.append(
                f"  {one.replicas} replicas: scale {number(one.scale, 4)}, residual "
                f"{number(one.residual, 2)}. {seen}"
            )
        lines += [f"  Variables: {short(first.variables)}"] if first.variables else []
        lines += [f"  Look at: {place(first)}"] if place(first) else []
        lines.append(f"  {advice(first)}")
    lines += [f"Note: {s.check}: {s.why}" for s in report.skipped]
    return "".join(f"{printable(line)}\n" for line in lines)


FORMAT = Format("plain", plain, is_offered=False)

"""A report as JSON."""

from __future__ import annotations

from distloss._audit.report.findings import Report
from distloss._audit.report.format import Format, Terminal


def _json(report: Report, _terminal: Terminal) -> str:
    return report.to_json() + "\n"


FORMAT = Format("json", _json)

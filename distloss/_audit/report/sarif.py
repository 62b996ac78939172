"""Reports as one log in SARIF, which code scanning services read."""

from __future__ import annotations

from distloss._audit.report.audits import Audits
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.records import failures, records, restrictions
from distloss._formats.sarif import sarif
from distloss._package import version


def _sarif(audits: Audits, _terminal: Terminal) -> str:
    problems = [*failures(audits), *restrictions(audits)]
    found = records(audits)
    return sarif(found, problems, version=version(), category="audit")


FORMAT = Format("sarif", _sarif, tells_failures=True)

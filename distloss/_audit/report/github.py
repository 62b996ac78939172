"""Reports as annotations of a pull request on GitHub."""

from __future__ import annotations

from distloss._audit.report.audits import Audits
from distloss._audit.report.format import Format, Terminal
from distloss._audit.report.records import failures, records
from distloss._formats.github import workflow_commands


def _github(audits: Audits, _terminal: Terminal) -> str:
    return workflow_commands(records(audits), failures(audits))


FORMAT = Format("github", _github, tells_failures=True)

"""Findings as text, JSON, for GitHub and as SARIF."""

from __future__ import annotations

import collections
import json
from dataclasses import asdict

from distloss._audit.report.printable import printable
from distloss._formats.github import workflow_commands
from distloss._formats.record import Record
from distloss._formats.sarif import sarif
from distloss._lint.rules import RULES
from distloss._lint.run import Linted
from distloss._package import version

SCHEMA = 1


def rendered(linted: Linted, form: str) -> str:
    """What was found, in a format of `command.FORMATS`."""
    if form == "json":
        return _json(linted)
    if form == "github":
        return workflow_commands(_records(linted), linted.problems)
    if form == "sarif":
        found, problems = _records(linted), linted.problems
        return sarif(found, problems, version=version(), category="lint")
    return _text(linted)


def _records(linted: Linted) -> list[Record]:
    about = {rule.name: rule for rule in RULES}
    return [finding.record(about[finding.rule].help) for finding in linted.findings]


def _json(linted: Linted) -> str:
    keys = (
        "rule",
        "severity",
        "file",
        "line",
        "column",
        "message",
        "remedy",
        "fixable",
    )
    findings = [
        {key: asdict(finding)[key] for key in keys} for finding in linted.findings
    ]
    problems = [asdict(problem) for problem in linted.problems]
    report = {"schema": SCHEMA, "findings": findings, "problems": problems}
    return json.dumps(report, indent=2) + "\n"


def _text(linted: Linted) -> str:
    lines = []
    for one in linted.findings:
        place = printable(f"{one.file}:{one.line}:{one.column}")
        lines.append(f"{place}: {one.severity}[{one.rule}] {one.message}")
        mends = " (--fix does it)" if one.fixable else ""
        lines.append(f"    {one.remedy}{mends}")
    return "".join(f"{line}\n" for line in [*lines, _summary(linted)])


def _summary(linted: Linted) -> str:
    counts = collections.Counter(finding.severity for finding in linted.findings)
    files = f"{linted.files} file" + "s" * (linted.files != 1)
    if not counts:
        return f"Nothing found in {files}."
    told = [
        f"{counts[kind]} {kind}{'s' * (counts[kind] != 1)}"
        for kind in ("error", "warning", "hint")
        if counts[kind]
    ]
    return f"{', '.join(told)} in {files}."

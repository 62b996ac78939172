"""SARIF 2.1.0, which code scanning services and editors read.

The standard: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import json
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

from distloss._formats.record import Problem, Record, in_repository

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/"
    "sarif-schema-2.1.0.json"
)
_LEVEL = {"error": "error", "warning": "warning", "hint": "note"}


def sarif(
    records: Sequence[Record],
    problems: Sequence[Problem] = (),
    *,
    version: str,
    category: str = "",
) -> str:
    """A log with one run.

    Args:
      records: the findings.
      problems: what could not be looked at.
      version: of this package.
      category: who looked. Of one tool, a service keeps the last log of each category.

    Returns:
      JSON that ends in a line feed.

    Example:
      >>> log = json.loads(sarif([Record("not-reduced", "error", "No."),], version="1"))
      >>> log["runs"][0]["results"][0]["ruleId"]
      'not-reduced'
    """
    rules = {record.rule: record for record in reversed(records)}
    ids = sorted(rules)
    driver = {
        "name": "distloss",
        "semanticVersion": version,
        "rules": [_rule(rules[name]) for name in ids],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(problems)],
        "results": [_result(record, ids.index(record.rule)) for record in records],
    }
    if category:
        run["automationDetails"] = {"id": f"distloss-{category}/"}
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2) + "\n"


def _rule(record: Record) -> dict[str, Any]:
    text = record.help or record.sentence
    return {
        "id": record.rule,
        "shortDescription": {"text": _first_sentence(text)},
        "fullDescription": {"text": text},
        "help": {"text": text},
    }


def _first_sentence(text: str) -> str:
    head, dot, _ = text.partition(". ")
    return head + dot.strip()


def _result(record: Record, index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": record.rule,
        "ruleIndex": index,
        "level": _LEVEL[record.severity],
        "message": {"text": record.sentence},
    }
    if record.file is not None:
        region = {"startLine": record.line, "startColumn": record.column}
        result["locations"] = [_location(record.file, region)]
    if record.accepted:
        accepted = {"kind": "external", "justification": record.accepted}
        result["suppressions"] = [accepted]
    return result


def _invocation(problems: Sequence[Problem]) -> dict[str, Any]:
    told = [_notification(problem) for problem in problems]
    failed = any(problem.severity == "error" for problem in problems)
    return {"executionSuccessful": not failed, "toolExecutionNotifications": told}


def _notification(problem: Problem) -> dict[str, Any]:
    told: dict[str, Any] = {
        "level": _LEVEL[problem.severity],
        "message": {"text": problem.message},
    }
    if problem.file is not None:
        told["locations"] = [_location(problem.file, {"startLine": problem.line})]
    return told


def _location(file: str, region: dict[str, int | None]) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(file)}}
    if region["startLine"]:  # a region without a line is none
        place["region"] = {key: number for key, number in region.items() if number}
    return {"physicalLocation": place}


def _uri(file: str) -> str:
    path = pathlib.PurePath(in_repository(file))
    if path.is_absolute():
        return path.as_uri()
    return urllib.parse.quote(os.fsencode(path.as_posix()))  # it need not be UTF-8

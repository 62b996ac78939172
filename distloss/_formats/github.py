"""Workflow commands of GitHub Actions, which annotate lines of a pull request.

The form, and what is escaped in it:
https://docs.github.com/actions/reference/workflow-commands-for-github-actions and
https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
"""

from __future__ import annotations

from collections.abc import Sequence

from distloss._formats.record import Problem, Record, in_repository

_COMMAND = {"error": "error", "warning": "warning", "hint": "notice"}


def workflow_commands(
    records: Sequence[Record], problems: Sequence[Problem] = ()
) -> str:
    """One command for each finding, a line each.

    Args:
      records: the findings.
      problems: what could not be looked at.

    Returns:
      Lines that end in a line feed; "" if there is nothing.

    Example:
      >>> found = Record("not-reduced", "error", "Nobody sums.", file="a.py", line=3)
      >>> print(workflow_commands([found]), end="")
      ::error file=a.py,line=3,title=distloss not-reduced::Nobody sums.
    """
    lines = [_of_record(record) for record in records]
    lines += [_of_problem(problem) for problem in problems]
    return "".join(f"{line}\n" for line in lines)


def _of_record(record: Record) -> str:
    place = {"file": _file(record), "line": record.line, "col": record.column}
    title = f"distloss {record.rule}"
    command = _COMMAND[record.severity]
    return _command(command, {**place, "title": title}, record.sentence)


def _of_problem(problem: Problem) -> str:
    place = {"file": _file(problem), "line": problem.line}
    command = _COMMAND[problem.severity]
    return _command(command, {**place, "title": "distloss"}, problem.message)


def _file(told: Record | Problem) -> str | None:
    return in_repository(told.file) if told.file else None


def _command(name: str, properties: dict[str, str | int | None], data: str) -> str:
    given = [f"{key}={_property(str(p))}" for key, p in properties.items() if p]
    return f"::{name} {','.join(given)}::{_data(data)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

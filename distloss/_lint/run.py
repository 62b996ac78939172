"""Lints files, on all processors if there are many."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from distloss._errors import ArgumentError
from distloss._formats.record import Problem
from distloss._lint.check import Checked, check_file, check_text, most_severe, without
from distloss._lint.files import Target, targets
from distloss._lint.findings import Finding
from distloss._lint.rules import RULES
from distloss._lint.source import SourceError, decoded
from distloss._settings import Settings, settings_for

STDIN = "-"
_FEW = 40  # files that are linted sooner than processes start


@dataclass(frozen=True)
class Linted:
    """What came of it.

    Attributes:
      findings: in the order of files and lines.
      problems: files that could not be looked at.
      files: how many were looked at.
    """

    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    files: int

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing but hints."""
        return all(finding.severity == "hint" for finding in self.findings)


def lint(names: Sequence[str]) -> Linted:
    """Lints files and folders.

    Args:
      names: of files, of folders, `FILE.py:build`, or `-` for stdin.

    Returns:
      What was found.

    Raises:
      ArgumentError: there is no such file, or the settings cannot be understood.
    """
    settings = settings_of(names)
    if STDIN in names:
        if len(names) > 1:
            raise ArgumentError(f"Expected - alone. Got {' '.join(names)}.")
        return _collected([_of_stdin()], settings)
    found = targets(names, settings.exclude)
    return _collected(_checked(found), settings)


def settings_of(names: Sequence[str]) -> Settings:
    """The settings of the project that the first file is in.

    Raises:
      ArgumentError: they cannot be understood, or ignore what is no rule.
    """
    first = pathlib.Path(names[0] if names[0] != STDIN else ".")
    folder = first if first.is_dir() else first.parent
    settings = settings_for(folder)
    rules = {rule.name for rule in RULES}
    unknown = sorted(set(settings.ignore) - rules)
    if unknown:
        raise ArgumentError(
            f"Expected ignore= to name rules: {', '.join(sorted(rules))}. Got "
            f"{', '.join(unknown)} in {settings.path}."
        )
    return settings


def _of_stdin() -> Checked:
    try:
        text = decoded(sys.stdin.buffer.read())
    except SourceError as error:
        return [], [Problem(str(error), STDIN, error.line)]
    return check_text(Target(pathlib.Path(STDIN)), text)


def _checked(found: list[Target]) -> list[Checked]:
    processes = min(len(os.sched_getaffinity(0)), len(found) // _FEW + 1)
    if processes < 2:
        return [check_file(target) for target in found]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(check_file, found, chunksize=8))


def _collected(checked: list[Checked], settings: Settings) -> Linted:
    findings = most_severe(finding for found, _ in checked for finding in found)
    wanted = without(findings, settings.ignore)
    if not settings.hints:
        wanted = [finding for finding in wanted if finding.severity != "hint"]
    problems = tuple(problem for _, found in checked for problem in found)
    return Linted(tuple(sorted(wanted)), problems, len(checked) - len(problems))

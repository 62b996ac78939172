"""What a project leaves as it is: findings get the reason, and fail no more."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from typing import Any

from distloss._audit.checks.table import CAUSES
from distloss._audit.report.findings import Report
from distloss._audit.target import place_and_name
from distloss._errors import ArgumentError
from distloss._settings import Settings


def reasons(settings: Settings, build: Any) -> dict[str, str]:
    """Why causes are accepted in a target, by their names.

    Args:
      settings: of the project.
      build: what is audited: an address or a function.

    Raises:
      ArgumentError: there is no cause of such a name.
    """
    for one in settings.accept:
        if one.cause not in CAUSES:
            raise ArgumentError(
                "Expected accept to name a cause of distloss audit --list-causes. Got "
                f"cause={one.cause!r} in {settings.path}."
            )
    if not isinstance(build, str):
        module = getattr(build, "__module__", None)
        build = f"{module}:{getattr(build, '__qualname__', '')}"
    audited = _identity(build, pathlib.Path.cwd())
    return {
        one.cause: one.reason
        for one in reversed(settings.accept)
        if one.target is None or _identity(one.target, settings.folder) == audited
    }


def _identity(address: str, folder: pathlib.Path) -> tuple[str, str]:
    """The same for all ways to write an address: of a file its path, and the name."""
    place, name = place_and_name(address)
    if place.endswith(".py") or "/" in place:
        with contextlib.suppress(ValueError):  # no file can have such a name
            place = os.path.realpath(folder / place)
    return place, name


def accepted(report: Report, reasons: dict[str, str]) -> Report:
    """The report, with the reason in each finding that is accepted."""
    found = (
        dataclasses.replace(f, accepted=reasons.get(f.cause, ""))
        for f in report.findings
    )
    return dataclasses.replace(report, findings=tuple(found))

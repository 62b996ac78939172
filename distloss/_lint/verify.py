"""`distloss audit --fix`: what lint mends is audited before it is written.

The mended text runs in place of the file's: under its path, from its folder, with its
arguments. Only who reads or imports that file by itself sees it as it was: a script
that opens its own source, a module that imports it, a process that it starts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from distloss._audit import output
from distloss._audit.report.findings import Report
from distloss._audit.target import place_and_name
from distloss._errors import ArgumentError, AuditError, LintError
from distloss._lint.files import Target, content, targets
from distloss._lint.fix import utf8
from distloss._lint.fixes.mending import difference, mended
from distloss._lint.run import settings_of
from distloss._lint.source import SourceError

Audit = Callable[..., Report]


@dataclass(frozen=True)
class Verified:
    """What came of it.

    Attributes:
      before: the audit of the file as it was.
      after: the audit of the mended text; None if there was nothing to mend.
      failure: why the mended text could not be audited; "" if it could.
      difference: between the two, as a unified diff.
      written: whether the file is the mended one now.
    """

    before: Report
    after: Report | None = None
    failure: str = ""
    difference: str = ""
    written: bool = False

    @property
    def last(self) -> Report:
        """The audit of the file as it is now."""
        return self.after if self.written and self.after is not None else self.before


def verified_fix(address: str, audit: Audit) -> Verified:
    """Audits a step, mends a copy of its file, audits that, and keeps it if it agrees.

    Args:
      address: of a script `FILE.py`, or `FILE.py:build`.
      audit: makes a report for such an address, and with `source=` for a text in place
        of what is in the file.

    Returns:
      Both verdicts.

    Raises:
      ArgumentError: it is no address of a file.
      LintError: the file cannot be read, or was changed meanwhile.
    """
    target = _target(address)
    try:
        text = utf8(content(target.path))
        before = audit(address)
        if before.passes:
            return Verified(before)
        return _tried(target, text, before, functools.partial(audit, address))
    except SourceError as error:
        raise LintError(
            f"Expected a file to mend. Got {target.path}: {error}"
        ) from error


def _target(address: str) -> Target:
    is_file = place_and_name(address)[0].endswith(".py")
    found = targets([address], ()) if is_file else []
    if len(found) != 1:
        raise ArgumentError(
            f"Expected FILE.py, or FILE.py:build, for --fix. Got {address!r}."
        )
    return found[0]


def _tried(target: Target, text: str, before: Report, audit: Audit) -> Verified:
    """What is certain first, then all: the audit tells whether it was meant."""
    tried = Verified(before)
    ignored = settings_of([str(target.path)]).ignore
    texts = [mended(target, text, ignore=ignored, certain=c) for c in (True, False)]
    for after in dict.fromkeys(texts):
        if after == text:
            continue
        told = difference(text, after, str(target.path))
        try:
            report = audit(source=after)
        except AuditError as error:
            tried = Verified(before, failure=str(error), difference=told)
            continue
        if report.passes:
            _write(target, text, after)
            return Verified(before, report, difference=told, written=True)
        tried = Verified(before, report, difference=told)
    return tried


def _write(target: Target, before: str, after: str) -> None:
    """Audits take time, in which somebody may have worked on the file."""
    if utf8(content(target.path)) != before:
        raise LintError(
            f"Expected {target.path} as it was when its audit began. Got another text. "
            "Run the audit again."
        )
    output.write(after, target.path)

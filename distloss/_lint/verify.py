"""`distloss audit --fix`: what lint mends is audited before it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distloss._audit import output
from distloss._audit.report.findings import Report
from distloss._errors import ArgumentError, LintError
from distloss._lint.files import Target, content, targets
from distloss._lint.fix import utf8
from distloss._lint.fixes.mending import difference, mended
from distloss._lint.source import SourceError

Audit = Callable[[str], Report]


@dataclass(frozen=True)
class Verified:
    """What came of it.

    Attributes:
      before: the audit of the file as it was.
      after: the audit of the mended copy; None if there was nothing to mend.
      difference: between the two, as a unified diff.
      written: whether the file is the mended one now.
    """

    before: Report
    after: Report | None = None
    difference: str = ""
    written: bool = False

    @property
    def last(self) -> Report:
        """The audit of the file as it is now."""
        return self.after if self.written and self.after is not None else self.before


def verified_fix(address: str, audit: Audit) -> Verified:
    """Audits a step, mends a copy, audits that, and keeps it where it agrees.

    Args:
      address: `FILE.py:build`.
      audit: makes a report for such an address.

    Returns:
      Both verdicts.

    Raises:
      ArgumentError: it is no address of a function in a file.
      LintError: the file cannot be read, or no copy can be made of it.
    """
    target = _target(address)
    try:
        text = utf8(content(target.path))
        before = audit(address)
        if before.agrees:
            return Verified(before)
        return _tried(target, text, before, audit)
    except SourceError as error:
        raise LintError(
            f"Expected a file to mend. Got {target.path}: {error}"
        ) from error


def _target(address: str) -> Target:
    found = targets([address], ()) if ".py:" in address else []
    if len(found) != 1 or found[0].build is None:
        raise ArgumentError(
            f"Expected FILE.py:build, a function in a file, for --fix. Got {address!r}."
        )
    return found[0]


def _tried(target: Target, text: str, before: Report, audit: Audit) -> Verified:
    """What is certain first, then all: the audit tells whether it was meant."""
    tried = Verified(before)
    texts = [mended(target, text, certain=certain) for certain in (True, False)]
    for after in dict.fromkeys(texts):
        if after == text:
            continue
        told = difference(text, after, str(target.path))
        with _copy(target, after) as address:
            report = dataclasses.replace(audit(address), target=str(target))
            tried = Verified(before, report, told)
        if tried.after is not None and tried.after.agrees:
            output.write(after, target.path)
            return Verified(before, tried.after, told, written=True)
    return tried


@contextlib.contextmanager
def _copy(target: Target, text: str) -> Iterator[str]:
    """The address of a copy, beside the file so that it imports the same."""
    name = f"_{target.path.stem}_{secrets.token_hex(4)}.py"
    path = pathlib.Path(target.path.parent, name)
    try:
        path.write_text(text, encoding="utf-8", newline="")
        yield f"{path}:{target.build}"
    except OSError as error:
        raise LintError(
            f"Expected a folder that takes a copy of the file. Got {error}."
        ) from error
    finally:
        path.unlink(missing_ok=True)

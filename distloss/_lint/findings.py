"""What the linter found: frozen, and the same in every format."""

from __future__ import annotations

from dataclasses import dataclass

from distloss._formats.record import Record, Severity


@dataclass(frozen=True, order=True)
class Finding:
    """One finding.

    Attributes:
      file: its path, as it was given.
      line: from 1.
      column: from 1.
      rule: slug of the rule.
      severity: `"error"`, `"warning"` or `"hint"`.
      message: what is wrong, here.
      remedy: what to change.
      fixable: whether `--fix` mends it.
    """

    file: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str
    remedy: str
    fixable: bool = False

    def record(self, about: str) -> Record:
        """The same for a format of another tool."""
        return Record(
            self.rule,
            self.severity,
            self.message,
            self.remedy,
            self.file,
            self.line,
            self.column,
            about,
        )

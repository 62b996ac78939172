"""What came of the audits of one command, for formats to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distloss._audit.report.findings import Report


@dataclass(frozen=True)
class Unchecked:
    """A target of which there is no report, and why."""

    target: str
    why: str


@dataclass(frozen=True)
class Audits:
    """What came of them.

    Attributes:
      reports: of the targets that could be checked.
      unchecked: the others.
      several: whether all targets of a project were asked for, however many that are;
        else there is one.
    """

    reports: tuple[Report, ...]
    unchecked: tuple[Unchecked, ...] = ()
    several: bool = False

    @property
    def passes(self) -> bool:
        """Whether all were checked, and nothing found but what is accepted."""
        return not self.unchecked and all(report.passes for report in self.reports)

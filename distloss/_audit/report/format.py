"""What a format of reports is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distloss._audit.report.audits import Audits


@dataclass(frozen=True)
class Terminal:
    """What a report is written for.

    Attributes:
      colours: whether it shows colours.
      coding: that of its characters.
      width: in characters; None for that of the terminal, or of a page.
    """

    colours: bool = False
    coding: str = "utf-8"
    width: int | None = None


@dataclass(frozen=True)
class Format:
    """One way to write a report.

    Attributes:
      name: as the command calls it.
      write: all reports, for a terminal; a file is one without colours.
      needs: the packages without which it cannot be written, of the extra "report".
      is_offered: whether users can ask for it.
      tells_failures: whether it has a way to say that the only target could not be
        checked.
    """

    name: str
    write: Callable[[Audits, Terminal], str]
    needs: tuple[str, ...] = ()
    is_offered: bool = True
    tells_failures: bool = False

"""What a format writes: one finding, whoever made it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "hint"]


@dataclass(frozen=True)
class Record:
    """One finding.

    Attributes:
      rule: its slug, such as `"sum-of-means"`.
      severity: `"error"` is certain, `"warning"` depends on what cannot be seen,
        `"hint"` is advice.
      message: what is wrong, here.
      remedy: what to change.
      file: path of the file that it is in, or None if it is in none.
      line: from 1, or None.
      column: from 1, in characters, or None.
      help: what the rule is about, wherever it finds something.
      accepted: why it is left as it is; "" where it is not.
    """

    rule: str
    severity: Severity
    message: str
    remedy: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    help: str = ""
    accepted: str = ""

    @property
    def sentence(self) -> str:
        """Message and remedy."""
        return f"{self.message} {self.remedy}".strip()


@dataclass(frozen=True)
class Problem:
    """What could not be looked at, or not as a whole, and why.

    Attributes:
      message: in one sentence.
      file: path of the file, or None.
      line: from 1, or None.
      severity: `"error"`, or `"hint"` where only a part was left out.
    """

    message: str
    file: str | None = None
    line: int | None = None
    severity: Severity = "error"


def in_repository(file: str) -> str:
    """The path as GitHub knows it: from the top of what it has checked out.

    A step of a workflow may run in another folder (`working-directory:`). Outside of
    workflows, and for files that are not in there, it is the path as it is.
    """
    top = os.environ.get("GITHUB_WORKSPACE")
    path = os.path.relpath(file, top) if top else os.pardir
    return file if path.split(os.sep)[0] == os.pardir else path

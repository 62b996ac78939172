"""What a rule is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from distloss._formats.record import Severity
from distloss._lint.facts import Facts
from distloss._lint.fixes.edits import Mend
from distloss._lint.updates import Term
from distloss._lint.values import Place


@dataclass(frozen=True)
class Hit:
    """Where a rule found something.

    Attributes:
      place: of what is wrong.
      severity: how sure it is.
      message: what is wrong, here.
      remedy: what to change, here.
      mend: edits that do so, if that is possible.
    """

    place: Place
    severity: Severity
    message: str
    remedy: str
    mend: Mend | None = None


@dataclass(frozen=True)
class Seen:
    """What rules judge.

    Attributes:
      facts: what the program does.
      terms: losses of its updates, each with the factor that it arrives with.
    """

    facts: Facts
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
      name: its slug; the audit's where it is the same bug.
      check: finds what is wrong.
      about: what it is about, where the audit has no words for it.
    """

    name: str
    check: Callable[[Seen], Iterable[Hit]]
    about: str = ""

    @property
    def help(self) -> str:
        """What it is about, wherever it finds something."""
        if self.about:
            return self.about
        # The table brings NumPy, which only some formats are worth.
        from distloss._audit.checks.table import CAUSES

        cause = CAUSES[self.name]
        return f"{cause.explanation} {cause.remedy}"


def severity(term: Term, otherwise: Severity = "warning") -> Severity:
    """An error where all is seen that decides it."""
    return "error" if term.sure and term.scalar.sure else otherwise

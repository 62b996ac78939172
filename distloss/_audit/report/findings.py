"""What the audit found: frozen, and the same in every format."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1

Answer = Literal["agrees", "differs", "cannot tell"]
Certainty = Literal["certain", "likely"]


@dataclass(frozen=True)
class Location:
    """Where in the user's code to look.

    Attributes:
      file: its path, relative to the working directory if it is in there.
      line: its number, from 1.
      call: what is called there, such as `"compile"`.
    """

    file: str
    line: int
    call: str

    def __str__(self) -> str:
        """As editors and terminals take it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Finding:
    """One way in which the gradient depends on how the batch is split.

    Attributes:
      cause: slug of the cause, such as `"sum-of-means"`.
      replicas: the number of replicas on which it was seen; 1 if on one device.
      scale: alpha, how many times too large the gradient is: <gN,g1>/<g1,g1>.
      residual: rho, what a scale does not explain: |gN - alpha g1| / |gN|.
      variables: paths of the trainable variables that it concerns.
      explanation: what happens, in one sentence.
      remedy: what to change.
      evidence: numbers, and the probes that they come from.
      location: where in the user's code to look; None where that is not known.
      accepted: why the project leaves it as it is; "" where it does not.
      certainty: of the cause: "certain" where an experiment isolates it (the difference
        is gone without it) or an exact number has no other; "likely" where it is what
        explains the numbers best. That there is a difference is measured in both.
    """

    cause: str
    replicas: int
    scale: float
    residual: float
    variables: tuple[str, ...]
    explanation: str
    remedy: str
    evidence: tuple[str, ...] = ()
    location: Location | None = None
    accepted: str = ""
    certainty: Certainty = "certain"


@dataclass(frozen=True)
class Skipped:
    """What was not checked, or only with a restriction, and why.

    Attributes:
      check: what it is.
      why: in words.
      unseen: whether without it nobody can say that gradients agree.
    """

    check: str
    why: str
    unseen: bool = False


@dataclass(frozen=True)
class Measured:
    """What one probe said.

    Attributes:
      probe: its name.
      replicas: the number of replicas.
      rows: on each replica, per call of the step.
      scale: alpha.
      residual: rho.
      error: |gN - g1| / |g1|.
      agrees: whether that is rounding.
      variables: path -> (alpha, rho) of each trainable variable with a gradient.
    """

    probe: str
    replicas: int
    rows: tuple[tuple[int, ...], ...]
    scale: float
    residual: float
    error: float
    agrees: bool
    variables: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The verdict of the audit.

    Attributes:
      target: what was audited.
      engine: how replicas were made.
      replicas: on how many the step was run.
      findings: what is wrong.
      skipped: what was not checked, and why.
      measured: what each probe said.
      seconds: how long it took.
    """

    target: str
    engine: str
    replicas: tuple[int, ...]
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    measured: tuple[Measured, ...] = ()
    seconds: float = 0.0

    @property
    def answer(self) -> Answer:
        """The verdict; "cannot tell" where nothing was found, and not all seen."""
        if self.findings:
            return "differs"
        return "cannot tell" if any(s.unseen for s in self.skipped) else "agrees"

    @property
    def agrees(self) -> bool:
        """Whether one batch gives one update, and its loss: nothing else was found."""
        return self.answer == "agrees"

    @property
    def passes(self) -> bool:
        """Whether it agrees but for what the project accepts."""
        is_known = self.answer != "cannot tell"
        return is_known and all(finding.accepted for finding in self.findings)

    def to_json(self) -> str:
        """The report as JSON, in the schema that the guide of the audit documents."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as what JSON can hold; NaN and infinity are strings."""
        return {
            "schema": SCHEMA,
            "answer": self.answer,
            "agrees": self.agrees,
            "passes": self.passes,
            "target": self.target,
            "engine": self.engine,
            "replicas": list(self.replicas),
            "seconds": round(self.seconds, 3),
            "findings": [_plain(finding) for finding in self.findings],
            "skipped": [_plain(one) for one in self.skipped],
            "measured": [_plain(one) for one in self.measured],
        }

    def _repr_html_(self) -> str | None:
        """The report in a notebook; None without the extra "report"."""
        from distloss._audit.report import html

        return html.fragment(self) if html.is_installed() else None


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "nan", "inf": JSON has no such numbers
    return value

"""What is said of a step that was checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from distloss._errors import ArgumentError, GradientError

_WAYS = ("raise", "warn")
_DTYPES = {2.0**-7: "bfloat16", 2.0**-10: "float16", 2.0**-23: "float32"}


@dataclass(frozen=True)
class StepReport:
    """Whether a step on N replicas has the gradient of one device.

    Attributes:
      step: its number, from 1; 0 where steps are not counted.
      replicas: N.
      rows: of each replica.
      agrees: whether there is nothing but rounding between the two gradients; None
        where they could not be compared.
      error: |gN - g1| / |g1|.
      allowed: up to which that is taken for rounding.
      dtype: the coarsest in which the step computes.
      scale: alpha, how many times too large the gradient of N replicas is.
      residual: rho, what a scale does not explain.
      variables: paths of those that differ.
      causes: slugs of `distloss audit`, such as "sum-of-means".
      why: what is wrong and what to change, or why it could not be compared.
    """

    step: int
    replicas: int
    rows: tuple[int, ...]
    agrees: bool | None
    error: float = 0.0
    allowed: float = 0.0
    dtype: str = "float32"
    scale: float = 1.0
    residual: float = 0.0
    variables: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        """In a line, or several where it disagrees."""
        name = f"step {self.step}" if self.step else "this step"
        if self.agrees is None:
            return f"{name}: not compared with one device: {self.why}"
        if self.agrees:
            return (
                f"{name}: {self.replicas} replicas give the gradient of one device: "
                f"{self.error:.0e} apart, {self.dtype} allows {self.allowed:.0e}"
            )
        return (
            f"{name}: {self.replicas} replicas do not give the gradient of one device. "
            f"alpha = {self.scale:.4g}, rho = {self.residual:.2g}, "
            f"{self.error:.2g} apart, {self.dtype} allows {self.allowed:.0e}; in "
            f"{_listed(self.variables)}.\n{self.why}"
        )


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    if not names:
        return "no variable on the first replica"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def not_compared(step: int, replicas: int, why: str) -> StepReport:
    """The report of a step of which nothing is known."""
    return StepReport(step, replicas, (), None, why=why)


def report_of(step: int, measured: Any, judged: Any) -> StepReport:
    """The report of a step that was measured and judged."""
    return StepReport(
        step,
        len(measured.rows),
        measured.rows,
        None if judged.why_not else judged.agrees,
        judged.error,
        judged.allowed,
        _DTYPES.get(measured.eps, "float64"),
        judged.scale,
        judged.residual,
        judged.variables,
        tuple(finding.cause for finding in judged.findings),
        "" if judged.agrees else judged.why_not or _causes_told(judged.findings),
    )


def _causes_told(findings: Any) -> str:
    return "\n".join(map(_told, findings)) or _UNKNOWN


_UNKNOWN = "The cause could not be told: distloss audit can look closer."


def _told(finding: Any) -> str:
    evidence = "; ".join(finding.evidence)
    return f"{finding.cause}: {finding.explanation} {finding.remedy} ({evidence})"


def checked_way(on_failure: Any) -> str:
    """What `on_failure=` says.

    Raises:
      ArgumentError: nothing that is known.
    """
    if on_failure not in _WAYS:
        raise ArgumentError(
            f"Expected on_failure= to be one of {', '.join(map(repr, _WAYS))}. Got "
            f"on_failure={on_failure!r}."
        )
    return str(on_failure)


def deliver(report: StepReport, on_failure: str, *, is_first: bool = True) -> None:
    """Shows a report; of a step that disagrees as `on_failure` says.

    Args:
      report: the same in all processes.
      on_failure: the argument of this name.
      is_first: whether this process says for all that the step agrees.

    Raises:
      GradientError: it disagrees.
    """
    if report.agrees:
        if is_first:
            print(f"distloss: {report}")  # beside what `fit` prints
    elif report.agrees is None:
        warnings.warn(str(report), stacklevel=3)
    elif on_failure == "raise":
        raise GradientError(str(report))
    else:
        warnings.warn(str(report), stacklevel=3)

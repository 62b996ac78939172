"""Who judges a measured step.

The words and the arithmetic are those of the audit, which stands above the library:
`distloss/__init__.py` hands its judge down when this file is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distloss._check.measured import Judged, Measured

# Gets what was measured, and what shows the gradient of a probe.
Judge = Callable[[Measured, Callable[[int, Any], tuple[Any, float]]], Judged]

_judges: list[Judge] = []


def judge_with(judge: Judge) -> None:
    """Lets `judge` judge from now on."""
    _judges[:] = [judge]


def judged(measured: Measured, show: Callable[[int, Any], tuple[Any, float]]) -> Judged:
    """What the judge says."""
    (judge,) = _judges
    return judge(measured, show)

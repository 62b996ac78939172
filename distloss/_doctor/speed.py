"""How fast replicas sum."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from distloss._doctor.engines import Engine
from distloss._doctor.known import peak_of
from distloss._doctor.report import Speed

SIZES = (1, 16_384, 262_144, 4_194_304)  # numbers of 4 bytes
_WARM, _TIMED = 2, 5


def speeds(engine: Engine, say: Callable[[str], None]) -> list[Speed]:
    """Of sums over all replicas; nothing where there is one."""
    if engine.count == 1:
        return []
    names = tuple(name.partition(" ")[2] for name in engine.names)
    peak = peak_of(names) if engine.count == len(engine.here) else None
    return [_speed(engine, size, peak, say) for size in SIZES]


def _speed(
    engine: Engine, size: int, peak: float | None, say: Callable[[str], None]
) -> Speed:
    placed = engine.placed([np.ones(size, np.float32)] * len(engine.here))
    seconds = []
    for number in range(_WARM + _TIMED):
        say(f"time of a sum of {size} numbers")
        began = time.perf_counter()
        engine.sum(placed)
        if number >= _WARM:
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    sent = 4 * size * 2 * (engine.count - 1) / engine.count
    rate = sent / median / 1e9
    return Speed(
        4 * size / 1e6, median * 1e6, rate, None if peak is None else rate / peak
    )

"""What clipping makes of a whole gradient, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from distloss._compare import Facts, norm


def clip_scales(gradient: Any, facts: Facts) -> list[float]:
    """The user's clipping as it is, and so tight that it acts on this gradient."""
    settings = facts.clip_settings or {}
    lengths = [norm(gradient[part]) for part in facts.slices()]
    scales = [1.0]
    if "global_clipnorm" in settings:
        scales.append(3 * settings["global_clipnorm"] / max(norm(gradient), 1e-30))
    elif "clipnorm" in settings:
        scales.append(3 * settings["clipnorm"] / max([*lengths, 1e-30]))
    elif "clipvalue" in settings:
        largest = float(np.max(np.abs(gradient), initial=1e-30))
        scales.append(3 * settings["clipvalue"] / largest)
    else:
        scales += [100.0, 1e4]
    return [scale for scale in scales if scale >= 1]


def clipped(gradient: Any, settings: dict[str, float], parts: list[slice]) -> Any:
    """One clip of a whole gradient, as Keras does it."""
    result = np.array(gradient, np.float64)
    for part in parts:
        if "clipnorm" in settings:
            length = norm(result[part])
            result[part] *= min(1.0, settings["clipnorm"] / length if length else 1.0)
    if "global_clipnorm" in settings:
        length = norm(result)
        result *= min(1.0, settings["global_clipnorm"] / length if length else 1.0)
    if "clipvalue" in settings:
        result = np.clip(result, -settings["clipvalue"], settings["clipvalue"])
    return result

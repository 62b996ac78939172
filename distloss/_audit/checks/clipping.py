"""What clipping makes of a whole gradient, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from distloss._audit.checks.compare import Facts, norm


def clip_scales(gradient: Any, facts: Facts) -> list[float]:
    """The user's clipping as it is, and so tight that it acts on this gradient."""
    slices, scales = facts.slices(), [1.0]
    for settings, indices in facts.clips:
        scales += _tighter([gradient[slices[i]] for i in indices], settings)
    if facts.clips_by_hand:
        scales += [100.0, 1e4]
    return [scale for scale in dict.fromkeys(scales) if scale >= 1]


def _tighter(parts: list[Any], settings: dict[str, float]) -> list[float]:
    """So tight that `settings` act on these parts of the gradient."""
    lengths = [norm(part) for part in parts]
    if "global_clipnorm" in settings:
        return [3 * settings["global_clipnorm"] / max(norm(lengths), 1e-30)]
    if "clipnorm" in settings:
        return [3 * settings["clipnorm"] / max([*lengths, 1e-30])]
    largest = max(float(np.max(np.abs(part), initial=1e-30)) for part in parts)
    return [3 * settings["clipvalue"] / largest]


def clipped_by_each(gradient: Any, facts: Facts) -> Any:
    """What the optimizers make of a gradient; each clips what it updates."""
    result, slices = np.array(gradient, np.float64), facts.slices()
    for settings, indices in facts.clips:
        sizes = [facts.sizes[i] for i in indices]
        own = np.concatenate([result[slices[i]] for i in indices])
        ends = np.cumsum(sizes)
        parts = [slice(int(e - n), int(e)) for e, n in zip(ends, sizes, strict=True)]
        own = clipped(own, settings, parts)
        for i, part in zip(indices, parts, strict=True):
            result[slices[i]] = own[part]
    return result


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

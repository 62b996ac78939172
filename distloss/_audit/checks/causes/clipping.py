"""Gradients that each replica clips for itself, and what clipping makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from distloss._audit.checks.cause import Cause, by_the_optimizer
from distloss._audit.checks.causes import not_reduced
from distloss._audit.checks.causes.sparse_slices import SLICES_APART
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Observation, StepFacts, norm
from distloss._audit.checks.comparison import Comparison
from distloss._audit.checks.probes import Probe

CLIP_BEFORE_SUM = Cause(
    "clip-before-sum",
    "Each replica clips its own gradient before they are added up, which is not the "
    "gradient of the batch, clipped.",
    by_the_optimizer("By hand: sum the gradients over replicas first, then clip."),
    may_be_chance=True,
    made_with="optimizer",
)


def _clip(comparison: Comparison, even_agrees: bool) -> None:
    if not comparison.facts.clip:
        return
    even, n = comparison.even(), comparison.replicas
    unclipped = np.asarray(comparison.look(n, even).gradient, np.float64)
    for clip in clip_scales(unclipped, comparison.facts):
        probe = dataclasses.replace(even, name="clipping on", clip=clip)
        seen = comparison.look(n, probe)
        if even_agrees:
            goal = comparison.look(1, probe.on_one())
        elif comparison.facts.clips and not comparison.facts.clips_by_hand:
            # Wrong without clipping: clipped is compared with what should come of it.
            clipped_once = clipped_by_each(unclipped * clip, comparison.facts) / clip
            goal = Observation(clipped_once)
        else:
            comparison.skip("clipping", "the gradient is wrong without it")
            return
        difference = comparison.compare(probe, seen, goal)
        if not_reduced.apart(comparison, seen, difference, seen, "clipped"):
            return
        if not difference.agrees:
            how = "as set" if clip == 1 else f"{clip:.3g} times tighter than set"
            comparison.find(
                _cause_of(comparison, probe),
                difference,
                f"clipped {how}: alpha = {difference.scale:.4g}, rho = "
                f"{difference.residual:.2g} against the gradient of the batch, "
                "clipped; without clipping they are the same",
            )
            return


def _cause_of(comparison: Comparison, probe: Probe) -> Cause:
    """Each replica clips its own, or slices of one index are clipped apart."""
    if comparison.look(comparison.replicas, probe).repeats:
        added_up = dataclasses.replace(probe, slices_added=True)
        on_one = comparison.look(1, added_up.on_one())
        seen = comparison.look(comparison.replicas, added_up)
        if comparison.tolerance.compare(seen, on_one).agrees:
            return SLICES_APART
    return CLIP_BEFORE_SUM


def clip_scales(gradient: Any, facts: StepFacts) -> list[float]:
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


def clipped_by_each(gradient: Any, facts: StepFacts) -> Any:
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


CHECK = Check("clip", (CLIP_BEFORE_SUM,), on_replicas=_clip)

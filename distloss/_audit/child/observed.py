"""What the steps of one probe showed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._audit.child.built import Built
from distloss._audit.child.devices import Devices
from distloss._audit.child.recorder import Recorder, components

# Each trained variable on each replica, in NumPy.
Weights = list[list[np.ndarray]]


def weights_of(model: Any) -> Weights:
    """What the model trains, as it is now."""
    variables = model.trainable_variables
    return [[c.numpy() for c in components(v)] for v in variables]


def put_weights(model: Any, weights: Weights) -> None:
    """Gives what the model trains these values."""
    for variable, values in zip(model.trainable_variables, weights, strict=True):
        for component, value in zip(components(variable), values, strict=True):
            component.assign(value)


@dataclass(frozen=True)
class Change:
    """Weights before and after the steps of a probe.

    Attributes:
      before: as they were.
      after: as they are.
    """

    before: Weights
    after: Weights

    def about(self) -> dict[str, Any]:
        """How large weights were, whether any moved, and whether all are numbers."""
        size = sum(float(np.sum(np.square(w[0]))) for w in self.before) ** 0.5
        moved = any(
            not np.array_equal(old[0], one, equal_nan=True)
            for old, new in zip(self.before, self.after, strict=True)
            for one in new
        )
        finite = all(np.isfinite(w).all() for ws in self.after for w in ws)
        return {"size": size, "moved": moved, "weights_finite": finite}

    def observed(self, recorder: Recorder, observe: str) -> dict[str, Any]:
        """Per variable, what a probe asks for; where it comes from; and its spread."""
        parts, sources, spread = [], set(), 0.0
        pairs = zip(self.before, self.after, strict=True)
        for index, (old, new) in enumerate(pairs):
            if observe == "tape":
                parts.append(recorder.of_tapes(index))
            elif observe == "gradient" and recorder.seen(index):
                sources.add("gradient")
                arrived = recorder.gradients(index)
                spread = max(spread, _spread(arrived))
                parts.append(arrived[0])
            else:
                if np.max(np.abs(new[0] - old[0]), initial=0.0):
                    sources.add("weights")
                spread = max(spread, _spread([old[0] - w for w in new], old[0]))
                parts.append(_wide(old[0]) - _wide(new[0]))
        gradient = np.concatenate([np.ravel(part) for part in parts])
        return {"gradient": gradient, "sources": sorted(sources), "spread": spread}


def reported(built: Built, devices: Devices, outputs: Any) -> list[float]:
    """The loss that a step shows: one number of Keras, or one of each replica."""
    if built.compiled:
        logs = built.compiled.logs(outputs)
        return _number(logs.get("loss") if isinstance(logs, dict) else logs)
    if isinstance(outputs, dict):
        outputs = outputs.get("loss")
    elif isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    return [n for value in devices.local_results(outputs) for n in _number(value)]


def _number(value: Any) -> list[float]:
    try:
        array = np.asarray(value)
        return [float(array)] if array.size == 1 else []
    except (TypeError, ValueError):
        return []


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def _spread(arrays: list[np.ndarray], scale: Any = None) -> float:
    """The largest relative difference of any replica's array from the first."""
    first = _wide(arrays[0])
    size = float(np.linalg.norm(first))
    noise = 0.0
    if scale is not None:
        # Weights that differ by rounding are next to each other, or after a second
        # change (a decay) two apart: more would hide small updates that differ.
        noise = 2 * _eps(scale) * float(np.linalg.norm(_wide(scale)))
    worst = 0.0
    for other in arrays[1:]:
        wide = _wide(other)
        if np.array_equal(first, wide, equal_nan=True):
            continue
        apart = float(np.linalg.norm(wide - first)) - noise
        largest = max(size, float(np.linalg.norm(wide)))
        if not np.isfinite(apart):
            return float("inf")
        worst = max(worst, apart / largest if largest else 0.0)
    return worst


def _eps(array: np.ndarray) -> float:
    return float(tf.experimental.numpy.finfo(_wide(array).dtype).eps)

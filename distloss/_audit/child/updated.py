"""Which of the variables that a model trains a traced step can change at all."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._audit.child.holdings import attributes_of, path_of
from distloss._audit.child.instruments import Instruments
from distloss._audit.child.recorder import components
from distloss._audit.child.uses import Uses, stopped, uses


def updated(model: Any, graph: Any, instruments: Instruments) -> dict[str, Any] | None:
    """What the step does with each variable that the model trains, by its index.

    Args:
      model: what `build` returned.
      graph: of the step, or None if it has none.
      instruments: have seen which gradients were taken.

    Returns:
      None where that cannot be known: without a graph, or where Python runs in it.
      Else indices: `read`, `written` for those that an operation may write, and
      `without_gradient` for those of which a tape was asked for a gradient and had
      none, though nobody stopped it; `discarded` for those whose gradient a tape gave,
      and which no operation writes; and `elsewhere`, names of other variables that it
      may write and that may hold what is to become an update.
    """
    found = None if graph is None else uses(graph)
    if found is None or found.is_opaque:
        return None
    recorder, losses = instruments.recorder, instruments.ablation.targets
    trained = [components(v) for v in model.trainable_variables]
    read = _among(trained, found.read)
    written = _among(trained, found.written)
    still = [(i, trained[i]) for i in read if i not in written]
    discarded = [i for i, own in still if any(id(c) in recorder.given for c in own)]
    asked = [
        i
        for i, own in still
        if i not in discarded and any(id(c) in recorder.asked for c in own)
    ]
    handles = [trained[i][0].handle for i in asked]
    is_meant = stopped(graph, handles, losses) if asked else []
    known = (
        instruments.own_variables()
        | _of_metrics(model)
        | {id(c) for own in trained for c in own}
    )
    return {
        "read": read,
        "written": written,
        "without_gradient": [
            i for i, is_so in zip(asked, is_meant, strict=True) if not is_so
        ],
        "discarded": discarded,
        "elsewhere": _elsewhere(graph, found, known),
    }


def _among(trained: list[list[tf.Variable]], handles: frozenset[int]) -> list[int]:
    """The indices of those with one of these handles."""
    own = enumerate(trained)
    return [i for i, every in own if any(id(c.handle) in handles for c in every)]


def _elsewhere(graph: Any, found: Uses, known: set[int]) -> list[str]:
    """What else may be written and can hold gradients: no counters, no sums."""
    others = [c for v in graph.variables for c in components(v) if id(c) not in known]
    handles = {id(c.handle): c for c in others}
    ours_or_known = {id(c.handle) for v in graph.variables for c in components(v)}
    names = [
        path_of(one)
        for handle, one in handles.items()
        if handle in found.written and _may_hold_gradients(one)
    ]
    resources = [
        outside for outside, _ in graph.captures if id(outside) in found.written
    ]
    unknown = [one for one in resources if id(one) not in ours_or_known]
    return names + [_named(one) for one in unknown]


def _named(resource: tf.Tensor) -> str:
    # Eager tensors raise where they are asked.
    return str(getattr(resource, "name", "a resource without a name"))


def _may_hold_gradients(variable: tf.Variable) -> bool:
    return variable.dtype.is_floating and int(np.prod(variable.shape)) != 1


def _of_metrics(model: Any) -> set[int]:
    """The ids of what metrics and layers keep, which is no update of weights."""
    kept = list(getattr(model, "non_trainable_variables", ()))
    for one in (*attributes_of(model), *getattr(model, "metrics", ())):
        if isinstance(one, keras.Metric):
            kept += one.variables
    return {id(c) for v in kept for c in components(v)}

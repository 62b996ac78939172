"""What a step consists of, and what can be advised for its model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss._audit.child.built import Built
from distloss._audit.child.devices import Devices
from distloss._audit.child.holdings import optimizers_of, path_of
from distloss._audit.child.instruments import Instruments
from distloss._audit.child.traced import Traced
from distloss._audit.child.updated import updated
from distloss._errors import DistlossError
from distloss._keras.compiled_model import layers_of
from distloss._keras.model_hooks import Hook
from distloss._keras.private_names.of_audit import GET_POLICY
from distloss._keras.tf_keras import is_model
from distloss._prepare.prepare import prepare
from distloss.optimizers.sharing import replicas_of
from distloss.replicas.horovod import HorovodReplicas


def description(
    built: Built, instruments: Instruments, traced: Traced
) -> dict[str, Any]:
    """What a traced step consists of."""
    variables, lint = built.model.trainable_variables, instruments.lint
    optimizers = optimizers_of(built.model)
    return {
        "names": [path_of(v) for v in variables],
        "shapes": [[int(n) for n in v.shape] for v in variables],
        "eps": max(_eps(built.model, v, optimizers) for v in variables),
        "found": sorted(instruments.ablation.found),
        "outputs": _outputs(built, instruments),
        "clips": _clips(instruments),
        "optimizers": _owned(instruments),
        "adders": instruments.ablation.adders,
        "is_keras": built.is_keras,
        "loss_scale": any("LossScale" in type(o).__name__ for o in optimizers),
        "eager_because": traced.eager_because,
        "tapes": instruments.recorder.tapes,
        "lints": lint.findings(),
        "constants": sorted(lint.constants),
        "batch_sizes": sorted(lint.batch_sizes),
        "updated": updated(built.model, traced.graph, instruments),
    }


def advice(built: Built, devices: Devices) -> dict[str, Any]:
    """Whether the model is prepared, or can be: tried, so the last thing to ask."""
    own_step = getattr(built.model, "__dict__", {}).get("train_step")
    return {
        "is_keras": built.is_keras,
        "prepared": isinstance(own_step, Hook),
        "refusal": _refusal(built, devices),
        "horovod": devices.rank is not None,
    }


def _refusal(built: Built, devices: Devices) -> str:
    if not built.is_keras:
        return ""
    replicas = None if devices.rank is None else HorovodReplicas()
    try:
        with devices.scope():
            prepare(built.model, replicas=replicas)
    except DistlossError as error:
        return str(error)
    return ""


def _clips(instruments: Instruments) -> list[Any]:
    """How each optimizer clips, and the indices of what it updates."""
    owners, found = instruments.recorder.owners, []
    for optimizer, settings in instruments.ablation.clipping.settings.items():
        own = [i for i, owner in sorted(owners.items()) if owner == optimizer]
        if own:
            found.append([settings, own])
    return found


def _owned(instruments: Instruments) -> list[list[int]]:
    """The indices of what each optimizer updates."""
    found: dict[int, list[int]] = {}
    for index, owner in sorted(instruments.recorder.owners.items()):
        found.setdefault(owner, []).append(index)
    return list(found.values())


def _outputs(built: Built, instruments: Instruments) -> list[str]:
    if built.compiled is None or len(instruments.ablation.outputs) < 2:
        return []
    return built.compiled.outputs()


def _eps(model: Any, variable: Any, optimizers: list[Any]) -> float:
    """Of the dtype in which this variable's gradient is computed, or sent."""
    policies = [getattr(model, "compute_dtype", None)]
    if isinstance(model, keras.Layer) or is_model(model):
        policies += [layer.compute_dtype for layer in layers_of(model)]
    policies += [GET_POLICY.found()(None).compute_dtype]
    epsilons = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
    known = [epsilons[p] for p in policies if p in epsilons]
    own = tf.as_dtype(variable.dtype)
    sent = [one.sent_as(own) for one in map(replicas_of, optimizers) if one]
    return max([*known, *(epsilons.get(t.name, 2.0**-52) for t in (own, *sent))])

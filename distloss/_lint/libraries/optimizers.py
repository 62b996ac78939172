"""Optimizers: what they are given, and gradients on the way to them."""

from __future__ import annotations

from dataclasses import replace

from distloss._lint.facts import Applied, Gradient
from distloss._lint.interpreter.collections import gradients_in
from distloss._lint.libraries.call import Call, Handler, is_true
from distloss._lint.quantities import Rows, Scalar, Terms
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Const,
    Every,
    Function,
    Instance,
    Items,
    Made,
    Opaque,
    Place,
    Value,
)

KERAS_3 = "keras.optimizers."
_STARTS = (
    KERAS_3,
    "tf_keras.optimizers.",
    "hvd.",
    "distloss.DistributedOptimizer",
    "tensorflow.compat.v1.train.",
    "tensorflow.train.",
)


def is_optimizer(value: Value) -> bool:
    """Whether it is one, or is called one."""
    if isinstance(value, Made):
        return value.name.startswith(_STARTS)
    if isinstance(value, Instance):
        return value.kind.inherits(*_STARTS)
    return isinstance(value, Opaque) and "opt" in value.last.lower()


def is_of_keras_3(value: Value) -> bool:
    """Whether it is known to be an optimizer of Keras 3."""
    if isinstance(value, Instance):
        return value.kind.inherits(KERAS_3) and not value.kind.inherits(
            f"{KERAS_3}legacy"
        )
    if not isinstance(value, Made) or not value.name.startswith(KERAS_3):
        return False
    return "legacy" not in value.name and value.name != f"{KERAS_3}deserialize"


def _applied(call: Call) -> Value:
    if not is_optimizer(call.receiver) and call.name != "apply_gradients":
        return UNKNOWN
    found = gradients_in(call.first)
    skips = is_true(call.get("skip_gradients_aggregation"))
    keeps = call.arguments.get("experimental_aggregate_gradients")
    skips = skips or (isinstance(keeps, Const) and keeps.value is False)
    where = call.machine.where
    sums = where.engine == "strategy" and not skips
    if isinstance(call.receiver, Made) and call.receiver.name.startswith("distloss."):
        sums = True
    for gradient in found:
        update = Applied(gradient, call.receiver, call.place, where, sums)
        call.machine.facts.applied.append(update)
    return UNKNOWN


def _minimized(call: Call) -> Value:
    loss = call.get("loss", 0)
    if isinstance(loss, Function):
        loss = call.machine.call(loss, Arguments(), call.place)
    if not isinstance(loss, (Scalar, Terms, Rows)) or not is_optimizer(call.receiver):
        return UNKNOWN
    gradient = Gradient(loss, call.place)
    inner = replace(call, arguments=Arguments((gradient,)), name="apply_gradients")
    return _applied(inner)


def tape_gradient(call: Call) -> Value:
    """`tape.gradient(loss, variables)`."""
    loss, sources = call.get("target", 0), call.get("sources", 1)
    if isinstance(sources, Rows):  # of an input, for a penalty on the gradient
        return Rows(of_model=True, sure=False)
    if isinstance(sources, (Items, Every)) and isinstance(loss, Items):
        return UNKNOWN
    return Gradient(loss, call.place)


def clipped(value: Value, place: Place) -> Value:
    """Gradients that are clipped by hand."""
    if isinstance(value, Items):
        return Items(tuple(clipped(item, place) for item in value.items))
    if isinstance(value, Every):
        return Every(clipped(value.item, place))
    if isinstance(value, Gradient) and not value.reduced:
        return replace(value, clipped=value.clipped or place)
    return value


def _clipped(call: Call) -> Value:
    return clipped(call.first, call.place)


def _clipped_together(call: Call) -> Value:
    return Items((clipped(call.first, call.place), UNKNOWN))


METHODS: dict[str, Handler] = {
    "apply_gradients": _applied,
    "apply": _applied,
    "minimize": _minimized,
    "scale_loss": lambda call: call.first,
    "get_scaled_loss": lambda call: call.first,
    "get_unscaled_gradients": lambda call: call.first,
}
EXTERNAL: dict[str, Handler] = {
    "tensorflow.clip_by_global_norm": _clipped_together,
    "tensorflow.clip_by_norm": _clipped,
    "tensorflow.clip_by_value": _clipped,
}

"""Horovod: collectives, tapes and optimizers."""

from __future__ import annotations

from dataclasses import replace

from distloss._lint.facts import Gradient
from distloss._lint.libraries.call import Call, Handler, word
from distloss._lint.libraries.distribution import gathered, reduced
from distloss._lint.quantities import REPLICAS, scalar
from distloss._lint.values import UNKNOWN, Made, Value

NAMES = ("hvd.", "hvd.keras.")


def how(call: Call, name: str = "op", position: int | None = None) -> str:
    """Whether it sums or averages, which is Horovod's default; "" if not known."""
    if not call.gives(name, position):
        return "mean" if not call.gives("average") else ""
    kind = word(call.get(name, position))
    return {"sum": "sum", "average": "mean"}.get(kind, "")


def _all_reduced(call: Call) -> Value:
    kind = how(call)
    return reduced(call.first, kind, call.place) if kind else UNKNOWN


def tape_gradient(call: Call) -> Value:
    """`tape.gradient` of `hvd.DistributedGradientTape`."""
    tape = call.receiver
    loss = call.get("target", 0)
    if not isinstance(tape, Made):
        return UNKNOWN
    kind = how(replace(call, arguments=tape.arguments))
    return Gradient(loss, call.place, reduced=kind) if kind else UNKNOWN


def _size(_call: Call) -> Value:
    return scalar(REPLICAS)


def _gathered(call: Call) -> Value:
    value = call.first
    if isinstance(value, Gradient):  # slices one after the other, which add up
        return replace(value, reduced="sum")
    return gathered(value)


_BY_NAME: dict[str, Handler] = {
    "size": _size,
    "allreduce": _all_reduced,
    "grouped_allreduce": _all_reduced,
    "allgather": _gathered,
}
HOROVOD: dict[str, Handler] = {
    start + name: handler for start in NAMES for name, handler in _BY_NAME.items()
}

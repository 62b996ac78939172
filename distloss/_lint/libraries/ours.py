"""Names of this package, as a program uses them."""

from __future__ import annotations

from distloss._lint.libraries import losses
from distloss._lint.libraries.call import Call, Handler
from distloss._lint.libraries.distribution import reduced
from distloss._lint.values import UNKNOWN, Function, Instance, Made, Value


def _prepared(call: Call) -> Value:
    """`prepare(model)` returns the model."""
    model = call.get("model", 0)
    if isinstance(model, (Made, Instance)):
        model.state["prepared"] = True
    return model


def _wrapped(call: Call) -> Value:
    """`DistributedOptimizer(optimizer)`."""
    optimizer = call.get("optimizer", 0)
    if isinstance(optimizer, (Made, Instance)):
        optimizer.state["wrapped"] = True
    return Made(call.name, call.arguments, call.place)


def _row_weighted(call: Call) -> Value:
    """`row_weighted(step)`, which weighs by rows: the means of `step` are right."""
    if call.arguments.all and isinstance(call.first, Function):
        call.machine.reached.add(call.first.node)
    return UNKNOWN


def _sum(call: Call) -> Value:
    """`replicas.sum(value)`, and `sum_gradients`."""
    return reduced(call.first, "sum", call.place) if call.arguments.all else UNKNOWN


OURS: dict[str, Handler] = {
    "distloss.prepare": _prepared,
    "distloss.DistributedOptimizer": _wrapped,
    "distloss.optimizers.DistributedOptimizer": _wrapped,
    "distloss.row_weighted": _row_weighted,
    "distloss.mean_share": losses.shared_mean,
    "distloss.regularization_share": losses.shared_penalty,
}
REPLICAS: dict[str, Handler] = {"sum": _sum, "sum_gradients": _sum}

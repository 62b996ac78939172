"""What calls of other packages return, and what is remembered of them."""

from __future__ import annotations

from distloss._lint.facts import Batched, Called, Where
from distloss._lint.interpreter.collections import gradients_in, is_tool
from distloss._lint.interpreter.machine import Machine
from distloss._lint.libraries import (
    distribution,
    horovod,
    losses,
    models,
    optimizers,
    ours,
    python,
    tensors,
)
from distloss._lint.libraries.call import (
    Call,
    Handler,
    has_scalars,
    is_true,
    rows_among,
)
from distloss._lint.quantities import Rows
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Instance,
    Made,
    Method,
    Opaque,
    Place,
    Ref,
    Value,
)

_FUNCTIONS: dict[str, Handler] = {
    **tensors.TENSORS,
    **distribution.EXTERNAL,
    **horovod.HOROVOD,
    **python.EXTERNAL,
    **ours.OURS,
    "tensorflow.nn.compute_average_loss": losses.average_loss,
    "tensorflow.nn.scale_regularization_loss": losses.scaled_penalty,
    "keras.Sequential": models.sequential,
}
_CLIPS = optimizers.EXTERNAL
_TENSORS = ("tensorflow.", "keras.ops.", "keras.activations.", "numpy.")
_CROSS_ENTROPY = ("cross_entropy", "ctc_loss")


def called(
    machine: Machine, callee: Value, arguments: Arguments, place: Place
) -> Value:
    """What a call of something that is not of the program returns."""
    if isinstance(callee, Ref):
        return _of_address(Call(machine, callee.name, arguments, place))
    if isinstance(callee, Method):
        call = Call(machine, callee.name, arguments, place, callee.receiver)
        return _of_method(call)
    if isinstance(callee, Opaque):
        return _of_name(machine, callee, arguments, place)
    if isinstance(callee, Made):
        return _of_made(Call(machine, callee.name, arguments, place, callee))
    return _unknown(Call(machine, "", arguments, place, callee), sure=False)


def called_object(
    machine: Machine,
    callee: Instance,
    value: Value,
    arguments: Arguments,
    place: Place,
) -> Value:
    """What an object of the program returns whose class inherits from another package.

    Args:
      machine: that follows the program.
      callee: the object.
      value: what its own method returned.
      arguments: of the call.
      place: of the call.
    """
    call = Call(machine, "", arguments, place, callee)
    if callee.kind.inherits("keras.Model", "keras.layers."):
        return models.output(call)
    if callee.kind.inherits(*losses.CLASSES) and isinstance(value, Rows):
        made = Made("keras.losses.Loss", callee.state["arguments"], place)
        return losses.reduced_by_keras(call, made, value)
    return value


def entered(value: Value, where: Where) -> Where:
    """Where the program is inside `with value:`."""
    found = value.state.get("where") if isinstance(value, Made) else None
    return found if isinstance(found, Where) else where


def _remembered(call: Call, result: Value, name: str) -> Value:
    of = call.receiver.place if isinstance(call.receiver, Made) else None
    fact = Called(name, call.arguments, result, call.place, call.machine.where, of)
    call.machine.facts.called.append(fact)
    return result


def _of_address(call: Call) -> Value:
    name = call.name
    if name in _CLIPS and gradients_in(call.first):
        return _CLIPS[name](call)
    if name in _FUNCTIONS:
        return _remembered(call, _FUNCTIONS[name](call), name)
    last = name.rpartition(".")[2]
    if last[:1].isupper() or name.startswith(("keras.applications.", "hvd.")):
        return _remembered(call, Made(name, call.arguments, call.place), name)
    if name.startswith("tensorflow.distribute."):
        return Made(name, call.arguments, call.place)
    if name.startswith(losses.CLASSES) or any(word in last for word in _CROSS_ENTROPY):
        return losses.of_rows(call)
    if name.startswith(_TENSORS):
        return tensors.elementwise(call)
    return _remembered(call, _unknown(call, sure=False), name)


def _of_method(call: Call) -> Value:
    receiver, name = call.receiver, call.name
    if isinstance(receiver, Rows) and name not in optimizers.METHODS:
        return _unknown(call, sure=False) if call.arguments.all else receiver
    if distribution.is_strategy(receiver) and name in distribution.STRATEGY:
        return _remembered(call, distribution.STRATEGY[name](call), f"strategy.{name}")
    kind = receiver.name if isinstance(receiver, Made) else ""
    for start, methods in _OF_MADE:
        if kind.startswith(start) and name in methods:
            return methods[name](call)
    if name in _ANYWHERE:
        return _ANYWHERE[name](call)
    if name == "update_state":
        return _remembered(call, UNKNOWN, "metric")
    return _unknown(call, sure=False)


def _of_name(
    machine: Machine, callee: Opaque, arguments: Arguments, place: Place
) -> Value:
    if callee.name in python.PYTHON:
        return python.PYTHON[callee.name](Call(machine, callee.name, arguments, place))
    owner, dot, name = callee.name.rpartition(".")
    call = Call(machine, name, arguments, place, Opaque(owner))
    known = name in _ANYWHERE or name == "update_state"
    if dot and (known or distribution.is_strategy(call.receiver)):
        return _of_method(call)
    return _unknown(call, sure=is_tool(callee.last))


def _of_made(call: Call) -> Value:
    if losses.is_loss(call.name):
        return _remembered(call, losses.of_object(call), "loss")
    if call.name.startswith("distloss.") and "Loss" in call.name:
        return losses.shared_loss(call)
    if call.name.startswith(("keras.", "tf_keras.")):
        if has_scalars(call.arguments.all):
            return _remembered(call, UNKNOWN, "metric")
        return models.output(call)
    return _unknown(call, sure=False)


def _unknown(call: Call, *, sure: bool) -> Value:
    """What a function that cannot be seen makes of rows: rows, or so it seems."""
    rows = rows_among(call.arguments.all)
    if not rows or has_scalars(call.arguments.all):
        return UNKNOWN
    known = sure and all(one.sure for one in rows)
    gathered = any(one.gathered for one in rows)
    part = any(one.part for one in rows)
    return Rows(of_model=True, sure=known, gathered=gathered, part=part)


def _batched(call: Call) -> Value:
    """`dataset.batch(size)`."""
    fact = Batched(
        call.get("batch_size", 0),
        call.place,
        call.machine.in_dataset_function,
        is_true(call.get("drop_remainder", 1)),
    )
    call.machine.facts.batched.append(fact)
    return UNKNOWN


_OF_MADE: tuple[tuple[str, dict[str, Handler]], ...] = (
    ("tensorflow.GradientTape", {"gradient": optimizers.tape_gradient}),
    ("hvd.DistributedGradientTape", {"gradient": horovod.tape_gradient}),
    ("tensorflow.distribute.ReplicaContext", distribution.CONTEXT),
    ("tensorflow.distribute.InputContext", distribution.INPUT),
    ("distloss.", ours.REPLICAS),
)
_ANYWHERE: dict[str, Handler] = {
    **optimizers.METHODS,
    **models.METHODS,
    **python.METHODS,
    "batch": _batched,
}

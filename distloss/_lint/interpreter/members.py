"""Attributes: of modules, objects, models and what is not known."""

from __future__ import annotations

import libcst as cst

from distloss._lint.facts import Gradient
from distloss._lint.interpreter.collections import is_tool
from distloss._lint.interpreter.machine import Machine
from distloss._lint.interpreter.scope import Scope
from distloss._lint.names import canonical
from distloss._lint.quantities import (
    PENALTY,
    REPLICAS,
    Rows,
    Scalar,
    Shape,
    Step,
    Terms,
    scalar,
)
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Class,
    Every,
    Function,
    Instance,
    Made,
    Method,
    Module,
    Opaque,
    Place,
    Ref,
    Value,
)

_MODEL_OR_LAYER = ("keras.Model", "keras.Sequential", "keras.layers.")
# what models, layers and optimizers of the program inherit, and we follow
_OF_KERAS = frozenset(
    {"compile", "add_loss", "apply", "apply_gradients", "minimize", "compute_loss"}
)
# what is asked of a tensor and is none itself
_OF_TENSOR = frozenset({"numpy", "get", "items", "keys", "values", "astype", "assign"})


def member(machine: Machine, receiver: Value, name: str, place: Place) -> Value:
    """`receiver.name`."""
    if name == "num_replicas_in_sync":
        return scalar(REPLICAS)
    if name == "losses" and is_model(receiver):
        return _added_losses(receiver, place)
    if isinstance(receiver, Module):
        return machine.module_member(receiver, name)
    if isinstance(receiver, Instance):
        return _of_instance(machine, receiver, name, place)
    if isinstance(receiver, Class):
        return receiver.member(name) or UNKNOWN
    return _of_value(receiver, name)


def _of_value(receiver: Value, name: str) -> Value:
    if isinstance(receiver, Ref):
        return Ref(canonical(f"{receiver.name}.{name}"))
    if isinstance(receiver, Gradient):
        return receiver  # its values and indices, if it is sparse
    if isinstance(receiver, (Rows, Scalar, Terms)):
        return _of_tensor(receiver, name)
    if isinstance(receiver, Opaque):
        return Opaque(f"{receiver.name}.{name}")
    return Method(receiver, name)


def is_model(value: Value) -> bool:
    """Whether it is a model or layer of Keras, or is called like one."""
    if isinstance(value, Made):
        return value.name.startswith(_MODEL_OR_LAYER)
    if isinstance(value, Instance):
        return value.kind.inherits(*_MODEL_OR_LAYER)
    if isinstance(value, Opaque):
        return is_tool(value.last) and "loss" not in value.last
    return isinstance(value, Rows)  # an argument of a step, of which no more is known


def _added_losses(model: Value, place: Place) -> Value:
    state = model.state if isinstance(model, (Made, Instance)) else {}
    if "adds" in state:
        return Every(state["adds"])
    step = Step("penalty", place)
    sure = "layers" in state  # others may add what is no penalty
    powers = ((PENALTY, 1),)
    return Every(Scalar(powers=powers, steps=(step,), of_model=True, sure=sure))


def _of_tensor(receiver: Value, name: str) -> Value:
    if name == "shape" and isinstance(receiver, Rows):
        return Shape(receiver)
    if name in _OF_TENSOR or name.startswith("trainable"):
        return Method(receiver, name)
    return receiver


def _of_instance(
    machine: Machine, receiver: Instance, name: str, place: Place
) -> Value:
    if name in receiver.attributes:
        return receiver.attributes[name]
    found = receiver.kind.member(name)
    if isinstance(found, Function):
        return bound(machine, found, receiver, place)
    if found is not None:
        return found
    return Method(receiver, name) if name in _OF_KERAS else Opaque(f"self.{name}")


def bound(
    machine: Machine, function: Function, receiver: Instance, place: Place
) -> Value:
    """A method of an object; the value of a property."""
    decorators = _decorators(function.node)
    if "staticmethod" in decorators:
        return function
    owner = receiver.kind if "classmethod" in decorators else receiver
    method = Function(
        function.node, function.source, function.scope, owner, function.home
    )
    if decorators & {"property", "cached_property"}:
        return machine.call(method, Arguments(), place)
    return method


def _decorators(node: cst.CSTNode) -> set[str]:
    found = set()
    for one in getattr(node, "decorators", ()):
        name = one.decorator
        if isinstance(name, cst.Attribute):
            name = name.attr
        if isinstance(name, cst.Name):
            found.add(name.value)
    return found


class Super(Instance):
    """An object as a class above the one that is being executed sees it."""


def parent(scope: Scope) -> Value:
    """`super()` in a method."""
    found: Scope | None = scope
    while found is not None and "__class__" not in found.names:
        found = found.parent
    if found is None:
        return UNKNOWN
    home, owner = found.names["__class__"], found.names.get("__self__")
    if not (isinstance(home, Class) and isinstance(owner, Instance)):
        return UNKNOWN
    above = Class(home.node, home.source, {}, home.bases)
    return Super(above, owner.attributes, owner.place, {"of": owner})

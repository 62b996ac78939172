"""Tuples, lists and dictionaries: what is in them, and what unpacking makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import libcst as cst

from distloss._lint.facts import Gradient
from distloss._lint.interpreter.scope import Scope, joined
from distloss._lint.quantities import LOCAL, Rows, Shape, scalar
from distloss._lint.values import (
    UNKNOWN,
    Const,
    Every,
    Instance,
    Items,
    Mapping,
    Opaque,
    Value,
)


def item_of(value: Value) -> Value:
    """What iterating over a value gives."""
    if isinstance(value, Items):
        return joined(list(value.items)) if value.items else UNKNOWN
    if isinstance(value, Every):
        return value.item
    # Gradients are a list of which all that is asked is true of each.
    return value if isinstance(value, (Gradient, Rows)) else UNKNOWN


def indexed(value: Value, index: Value | None) -> Value:
    """`value[index]`; None stands for a slice."""
    if index is None:
        # Rows that are cut out of a batch with bounds are a part of it.
        return replace(value, part=True) if isinstance(value, Rows) else value
    if isinstance(value, Mapping):
        return _of_mapping(value, index)
    if isinstance(value, Shape):
        return _of_shape(value, index)
    if isinstance(value, Items) and isinstance(index, Const):
        return _of_items(value.items, index.value)
    return item_of(value)


def _of_mapping(value: Mapping, index: Value) -> Value:
    if isinstance(index, Const) and index.value in value.items:
        return value.items[index.value]
    return UNKNOWN


def _of_shape(value: Shape, index: Value) -> Value:
    if isinstance(index, Const) and index.value == 0:
        return scalar(LOCAL, part=value.of.part)
    return UNKNOWN


def _of_items(items: Sequence[Value], index: Any) -> Value:
    try:
        return items[index]
    except (IndexError, TypeError):
        return UNKNOWN


def assign(machine: Any, target: cst.CSTNode, value: Value, scope: Scope) -> None:
    """`target = value`."""
    if isinstance(target, cst.Name):
        scope.set(target.value, value)
    elif isinstance(target, (cst.Tuple, cst.List)):
        _unpack(machine, target, value, scope)
    elif isinstance(target, cst.Attribute):
        _set_attribute(machine, target, value, scope)
    elif isinstance(target, cst.Subscript):
        _set_item(machine, target, value, scope)


def _unpack(
    machine: Any, target: cst.Tuple | cst.List, value: Value, scope: Scope
) -> None:
    elements = target.elements
    stars = [isinstance(one, cst.StarredElement) for one in elements]
    if isinstance(value, Shape):
        value = Items((scalar(LOCAL), *[UNKNOWN] * (len(elements) - 1)))
    if (
        isinstance(value, Items)
        and len(value.items) == len(elements)
        and not any(stars)
    ):
        for element, item in zip(elements, value.items, strict=True):
            assign(machine, element.value, item, scope)
        return
    for element, star in zip(elements, stars, strict=True):
        item = item_of(value)
        assign(machine, element.value, Every(item) if star else item, scope)


def _set_attribute(
    machine: Any, target: cst.Attribute, value: Value, scope: Scope
) -> None:
    receiver = machine.value(target.value, scope)
    if not isinstance(receiver, Instance):
        return
    name = target.attr.value
    if machine.in_branch and name in receiver.attributes:
        value = joined([receiver.attributes[name], value])
    receiver.attributes[name] = value


def _set_item(machine: Any, target: cst.Subscript, value: Value, scope: Scope) -> None:
    receiver = machine.value(target.value, scope)
    index = target.slice[0].slice
    if isinstance(receiver, Mapping) and isinstance(index, cst.Index):
        key = machine.value(index.value, scope)
        if isinstance(key, Const):
            receiver.items[key.value] = value


def append(machine: Any, node: cst.Call, scope: Scope) -> bool:
    """`name.append(value)` of a list; whether that is what the call is."""
    function = node.func
    if not isinstance(function, cst.Attribute) or len(node.args) != 1:
        return False
    owner = function.value
    if function.attr.value != "append" or not isinstance(owner, cst.Name):
        return False
    before = scope.names.get(owner.value)
    if not isinstance(before, (Items, Every)):
        return False
    item = machine.value(node.args[0].value, scope)
    if machine.in_branch or isinstance(before, Every):  # which may run several times
        scope.names[owner.value] = Every(joined([item, *_known(before)]))
    else:
        scope.names[owner.value] = Items((*before.items, item))
    return True


def _known(before: Items | Every) -> tuple[Value, ...]:
    return before.items if isinstance(before, Items) else (before.item,)


def zipped(values: Sequence[Value]) -> Value:
    """`zip(*values)`."""
    if all(isinstance(value, Items) for value in values) and values:
        rows = zip(*(value.items for value in values), strict=False)  # type: ignore[attr-defined]
        return Items(tuple(Items(tuple(row)) for row in rows))
    return Every(Items(tuple(item_of(value) for value in values)))


def unzipped(value: Value) -> Value:
    """`zip(*value)`."""
    if isinstance(value, Items):
        return zipped(value.items)
    item = item_of(value)
    if isinstance(item, Items):
        return Items(tuple(Every(part) for part in item.items))
    return Every(Every(item_of(item)))


def gradients_in(value: Value) -> list[Gradient]:
    """The gradients that are somewhere in a value."""
    if isinstance(value, Gradient):
        return [value]
    if isinstance(value, Items):
        return [found for item in value.items for found in gradients_in(item)]
    return gradients_in(value.item) if isinstance(value, Every) else []


def rows_in(value: Value) -> Value:
    """What arrives of an argument in a function that runs on each replica."""
    if isinstance(value, Items):
        return Items(tuple(rows_in(item) for item in value.items))
    if isinstance(value, Mapping):
        return Mapping({key: rows_in(item) for key, item in value.items.items()})
    if value is UNKNOWN or isinstance(value, Every):
        return Rows()
    if isinstance(value, Opaque):
        return value if is_tool(value.last) else Rows()
    return value


def is_tool(name: str) -> bool:
    """Whether a name is that of a model, an optimizer and the like, not of data."""
    words = ("model", "optim", "loss", "metric", "net", "encoder", "decoder", "self")
    return any(word in name.lower() for word in words)

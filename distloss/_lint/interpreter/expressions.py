"""What an expression is, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import libcst as cst

from distloss._lint.arithmetic import product, quotient, total
from distloss._lint.facts import Gradient
from distloss._lint.interpreter import collections, members
from distloss._lint.interpreter.machine import Machine
from distloss._lint.interpreter.scope import Scope, joined
from distloss._lint.quantities import Rows
from distloss._lint.values import (
    NONE,
    UNKNOWN,
    Arguments,
    Class,
    Const,
    Every,
    Function,
    Imported,
    Instance,
    Items,
    Made,
    Mapping,
    Opaque,
    Place,
    Ref,
    Value,
)


def _constant(_machine: Machine, node: Any, _scope: Scope) -> Value:
    text = getattr(node, "value", "")
    if text.isdecimal():  # what is simple need not go through a compiler
        return Const(int(text)) if text == "0" or text[0] != "0" else UNKNOWN
    if text[:1] == '"' and text.count('"') == 2 and "\\" not in text:
        return Const(text[1:-1])
    try:
        return Const(node.evaluated_value)
    except (ValueError, SyntaxError):
        return UNKNOWN


def _name(machine: Machine, node: cst.Name, scope: Scope) -> Value:
    if node.value in ("True", "False", "None"):
        return {"True": Const(True), "False": Const(False), "None": NONE}[node.value]
    value = scope.get(node.value)
    if isinstance(value, Imported):
        value = machine.imported(value)
    return Opaque(node.value) if value is UNKNOWN else value


def _attribute(machine: Machine, node: cst.Attribute, scope: Scope) -> Value:
    receiver = machine.value(node.value, scope)
    place = Place(scope.source, node)
    return members.member(machine, receiver, node.attr.value, place)


def _call(machine: Machine, node: cst.Call, scope: Scope) -> Value:
    if collections.append(machine, node, scope):
        return NONE
    callee = machine.value(node.func, scope)
    if isinstance(callee, Opaque) and callee.name == "super":
        return members.parent(scope)
    if isinstance(callee, Opaque) and callee.name == "zip" and _is_starred(node):
        return collections.unzipped(machine.value(node.args[0].value, scope))
    arguments = arguments_of(machine, node, scope)
    return machine.call(callee, arguments, Place(scope.source, node))


def _is_starred(node: cst.Call) -> bool:
    return bool(node.args) and node.args[0].star == "*"


def arguments_of(machine: Machine, node: cst.Call, scope: Scope) -> Arguments:
    """What a call passes."""
    positional: list[Value] = []
    keywords: dict[str, Value] = {}
    places: dict[str, Place] = {}
    starred = False
    for one in node.args:
        value = machine.value(one.value, scope)
        if one.keyword is not None:
            keywords[one.keyword.value] = value
            places[one.keyword.value] = Place(scope.source, one)
        elif not one.star:
            positional.append(value)
        elif one.star == "*" and isinstance(value, Items):
            positional += value.items
        elif isinstance(value, Mapping):
            keywords.update(value.items)
            places.update(value.places)
        else:
            starred = True
    place = Place(scope.source, node)
    return Arguments(tuple(positional), keywords, place, places, starred)


_ARITHMETIC: dict[type, Callable[[Value, Value, Place], Value]] = {
    cst.Multiply: product,
    cst.MultiplyAssign: product,
    cst.Divide: quotient,
    cst.DivideAssign: quotient,
    cst.Add: lambda one, other, _place: total(one, other),
    cst.AddAssign: lambda one, other, _place: total(one, other),
    cst.Subtract: lambda one, other, _place: total(one, other),
    cst.SubtractAssign: lambda one, other, _place: total(one, other),
}


def combined(operator: type, one: Value, other: Value, place: Place) -> Value:
    """What an operator makes of two values."""
    if isinstance(one, Items) and isinstance(other, Items):
        return Items(one.items + other.items) if "Add" in operator.__name__ else UNKNOWN
    one, other = _as_rows(one, other), _as_rows(other, one)
    compute = _ARITHMETIC.get(operator)
    if compute is None:
        return _elementwise(one, other)
    if isinstance(one, Gradient):
        return _gradient(compute, one, other, place)
    if isinstance(other, Gradient) and compute is product:
        return _gradient(compute, other, one, place)
    return compute(one, other, place)


def _as_rows(value: Value, beside: Value) -> Value:
    """A variable beside rows makes what is trained of them."""
    is_variable = isinstance(value, Made) and value.name.endswith(".Variable")
    return Rows(of_model=True) if is_variable and isinstance(beside, Rows) else value


def _gradient(
    compute: Callable[[Value, Value, Place], Value],
    one: Gradient,
    other: Value,
    place: Place,
) -> Value:
    if isinstance(other, Gradient):
        return replace(one, accumulated=True)
    if compute not in (product, quotient):
        return one if isinstance(other, Const) else UNKNOWN
    loss = compute(one.loss, other, place)
    return replace(one, loss=loss) if loss is not UNKNOWN else UNKNOWN


def _elementwise(one: Value, other: Value) -> Value:
    """Of an operator that keeps rows apart, such as `**`; not of a matrix product."""
    rows = [value for value in (one, other) if isinstance(value, Rows)]
    if not rows or any(value.powers for value in rows):
        return UNKNOWN
    return replace(rows[0], of_model=any(value.of_model for value in rows))


def _binary(machine: Machine, node: cst.BinaryOperation, scope: Scope) -> Value:
    one, other = machine.value(node.left, scope), machine.value(node.right, scope)
    if isinstance(node.operator, cst.FloorDivide):
        return UNKNOWN
    return combined(type(node.operator), one, other, Place(scope.source, node))


def _unary(machine: Machine, node: cst.UnaryOperation, scope: Scope) -> Value:
    value = machine.value(node.expression, scope)
    if isinstance(node.operator, cst.Not):
        known = truth(value)
        return UNKNOWN if known is None else Const(not known)
    if isinstance(value, Const) and isinstance(node.operator, cst.Minus):
        return Const(-value.value) if isinstance(value.value, (int, float)) else UNKNOWN
    return value


def truth(value: Value) -> bool | None:
    """Whether it counts as true, or None where that is not known."""
    if isinstance(value, Const):
        return bool(value.value)
    if isinstance(value, (Items, Mapping)):
        return bool(value.items)
    return True if isinstance(value, (Function, Class, Instance, Made, Ref)) else None


def _boolean(machine: Machine, node: cst.BooleanOperation, scope: Scope) -> Value:
    left = machine.value(node.left, scope)
    known = truth(left)
    if known is None:
        right = machine.value(node.right, scope)
        return joined([left, right]) if isinstance(node.operator, cst.Or) else UNKNOWN
    if known == isinstance(node.operator, cst.Or):
        return left
    return machine.value(node.right, scope)


def _comparison(machine: Machine, node: cst.Comparison, scope: Scope) -> Value:
    left = machine.value(node.left, scope)
    rights = [machine.value(one.comparator, scope) for one in node.comparisons]
    rows = [value for value in (left, *rights) if isinstance(value, Rows)]
    if rows:
        return replace(rows[0], weights=not rows[0].of_model)
    if len(rights) != 1:
        return UNKNOWN
    return _compared(node.comparisons[0].operator, left, rights[0])


def _compared(operator: cst.BaseCompOp, left: Value, right: Value) -> Value:
    if isinstance(operator, (cst.Is, cst.IsNot)):
        same = _is_same(left, right)
        return UNKNOWN if same is None else Const(same == isinstance(operator, cst.Is))
    if not (isinstance(left, Const) and isinstance(right, Const)):
        return UNKNOWN
    if isinstance(operator, (cst.Equal, cst.NotEqual)):
        is_equal = left.value == right.value
        return Const(is_equal == isinstance(operator, cst.Equal))
    return UNKNOWN


def _is_same(left: Value, right: Value) -> bool | None:
    if right != NONE or left is UNKNOWN or isinstance(left, Opaque):
        return None
    return isinstance(left, Const) and left.value is None


def _conditional(machine: Machine, node: cst.IfExp, scope: Scope) -> Value:
    known = truth(machine.value(node.test, scope))
    if known is not None:
        return machine.value(node.body if known else node.orelse, scope)
    branches = (node.body, node.orelse)
    return joined([machine.value(branch, scope) for branch in branches])


def _lambda(_machine: Machine, node: cst.Lambda, scope: Scope) -> Value:
    return Function(node, scope.source, scope)


def _sequence(machine: Machine, node: Any, scope: Scope) -> Value:
    items: list[Value] = []
    for element in node.elements:
        value = machine.value(element.value, scope)
        if not isinstance(element, cst.StarredElement):
            items.append(value)
        elif isinstance(value, Items):
            items += value.items
        else:
            return Every(collections.item_of(value))
    return Items(tuple(items))


def _dictionary(machine: Machine, node: cst.Dict, scope: Scope) -> Value:
    items: dict[Any, Value] = {}
    for element in node.elements:
        value = machine.value(element.value, scope)
        if not isinstance(element, cst.DictElement):
            items.update(value.items if isinstance(value, Mapping) else {})
            continue
        key = machine.value(element.key, scope)
        items[key.value if isinstance(key, Const) else key] = value
    return Mapping(items)


def _subscript(machine: Machine, node: cst.Subscript, scope: Scope) -> Value:
    value = machine.value(node.value, scope)
    slices = [one.slice for one in node.slice]
    index: Value | None = UNKNOWN
    if len(slices) == 1 and isinstance(slices[0], cst.Index):
        index = machine.value(slices[0].value, scope)
    elif isinstance(slices[0], cst.Slice):
        index = None
    return collections.indexed(value, index)


def _comprehension(machine: Machine, node: Any, scope: Scope) -> Value:
    inner = Scope(scope.source, parent=scope, frame=scope.frame)
    known: list[Value] | None = None
    for name, items in _loops(machine, node.for_in, inner):
        if known is None and node.for_in.inner_for_in is None and items:
            known = []
            for item in items:
                collections.assign(machine, name, item, inner)
                known.append(machine.value(node.elt, inner))
    if known is not None and not node.for_in.ifs:
        return Items(tuple(known))
    return Every(machine.value(node.elt, inner))


def _loops(
    machine: Machine, loop: cst.CompFor | None, scope: Scope
) -> Iterator[tuple[cst.CSTNode, tuple[Value, ...]]]:
    while loop is not None:
        value = machine.value(loop.iter, scope)
        items = value.items if isinstance(value, Items) else ()
        yield loop.target, items if len(items) <= 8 else ()
        if not items:
            item = collections.item_of(value)
            collections.assign(machine, loop.target, item, scope)
        loop = loop.inner_for_in


def _dictionary_of(machine: Machine, node: cst.DictComp, scope: Scope) -> Value:
    inner = Scope(scope.source, parent=scope, frame=scope.frame)
    list(_loops(machine, node.for_in, inner))
    return Every(machine.value(node.value, inner))


def _walrus(machine: Machine, node: cst.NamedExpr, scope: Scope) -> Value:
    value = machine.value(node.value, scope)
    collections.assign(machine, node.target, value, scope)
    return value


def _yield(machine: Machine, node: cst.Yield, scope: Scope) -> Value:
    if isinstance(node.value, cst.BaseExpression):
        scope.frame.yielded.append(machine.value(node.value, scope))
    elif isinstance(node.value, cst.From):
        items = machine.value(node.value.item, scope)
        scope.frame.yielded.append(collections.item_of(items))
    return UNKNOWN


def _awaited(machine: Machine, node: cst.Await, scope: Scope) -> Value:
    return machine.value(node.expression, scope)


EXPRESSIONS: dict[type, Callable[[Machine, Any, Scope], Value]] = {
    **dict.fromkeys(
        (cst.Integer, cst.Float, cst.SimpleString, cst.ConcatenatedString), _constant
    ),
    **dict.fromkeys((cst.Tuple, cst.List, cst.Set), _sequence),
    **dict.fromkeys((cst.ListComp, cst.GeneratorExp, cst.SetComp), _comprehension),
    cst.Name: _name,
    cst.Attribute: _attribute,
    cst.Call: _call,
    cst.BinaryOperation: _binary,
    cst.UnaryOperation: _unary,
    cst.BooleanOperation: _boolean,
    cst.Comparison: _comparison,
    cst.IfExp: _conditional,
    cst.Lambda: _lambda,
    cst.Dict: _dictionary,
    cst.DictComp: _dictionary_of,
    cst.Subscript: _subscript,
    cst.NamedExpr: _walrus,
    cst.Yield: _yield,
    cst.Await: _awaited,
}

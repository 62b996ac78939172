"""Calls of functions, classes and objects of the program."""

from __future__ import annotations

import re
from typing import Any

import libcst as cst

from distloss._lint import libraries
from distloss._lint.interpreter import statements
from distloss._lint.interpreter.machine import MAX_CALLS, Machine
from distloss._lint.interpreter.members import Super, bound
from distloss._lint.interpreter.scope import Frame, Scope, joined
from distloss._lint.quantities import Rows
from distloss._lint.values import (
    NONE,
    UNKNOWN,
    Arguments,
    Class,
    Every,
    Function,
    Instance,
    Items,
    Mapping,
    Opaque,
    Partial,
    Place,
    Value,
)

# What parameters of a step are called that take data. Under a strategy it is seen what
# a step is given; a program of Horovod calls its step with what a loop makes.
_DATA = re.compile(
    r"(x|y|inputs?|images?|labels?|batch|data|features?|targets?|tokens?|examples?)"
    r"|[xy]_\w+|\w+_(batch|ids|images|labels|inputs)"
)


def called(
    machine: Machine, callee: Value, arguments: Arguments, place: Place
) -> Value:
    """What a call returns."""
    if isinstance(callee, Function):
        return _of_function(machine, callee, arguments)
    if isinstance(callee, Partial):
        given = callee.arguments
        merged = Arguments(
            (*given.positional, *arguments.positional),
            {**given.keywords, **arguments.keywords},
            place,
            {**given.places, **arguments.places},
            arguments.starred,
        )
        return machine.call(callee.function, merged, place)
    if isinstance(callee, Class):
        return instance_of(machine, callee, arguments, place)
    if isinstance(callee, Instance):
        return _of_instance(machine, callee, arguments, place)
    return libraries.called(machine, callee, arguments, place)


def instance_of(
    machine: Machine, kind: Class, arguments: Arguments, place: Place
) -> Instance:
    """An object of a class of the program."""
    made = Instance(kind, {}, place, {"arguments": arguments})
    if kind not in machine.facts.made:
        machine.facts.made.append(kind)
    start = kind.member("__init__")
    if isinstance(start, Function):
        machine.call(bound(machine, start, made, place), arguments, place)
    else:
        _set_fields(machine, kind, made, arguments)
    return made


def _set_fields(
    machine: Machine, kind: Class, made: Instance, arguments: Arguments
) -> None:
    """Of a dataclass or a named tuple: what was given, by name or in order."""
    made.attributes.update(arguments.keywords)
    fields = [
        line.target.value
        for statement in kind.node.body.body
        if isinstance(statement, cst.SimpleStatementLine)
        for line in statement.body
        if isinstance(line, cst.AnnAssign) and isinstance(line.target, cst.Name)
    ]
    made.attributes.update(zip(fields, arguments.positional, strict=False))


def _of_instance(
    machine: Machine, callee: Instance, arguments: Arguments, place: Place
) -> Value:
    for name in ("__call__", "call"):
        method = callee.kind.member(name)
        if isinstance(method, Function):
            value = machine.call(
                bound(machine, method, callee, place), arguments, place
            )
            return libraries.called_object(machine, callee, value, arguments, place)
    return libraries.called_object(machine, callee, UNKNOWN, arguments, place)


def _of_function(machine: Machine, callee: Function, arguments: Arguments) -> Value:
    machine.reached.add(callee.node)
    if callee.node in machine.stack or len(machine.stack) >= MAX_CALLS:
        return UNKNOWN
    scope = Scope(callee.source, parent=callee.scope, frame=Frame())
    owner = callee.owner
    if owner is not None:
        owner = owner.state["of"] if isinstance(owner, Super) else owner
        arguments = arguments.after(owner)
    if callee.home is not None:
        scope.names["__class__"] = callee.home
        scope.names["__self__"] = owner or UNKNOWN
    _bind(machine, callee, arguments, scope)
    machine.stack.append(callee.node)
    try:
        with machine.holding(in_branch=False):
            return _result(machine, callee.node, scope)
    finally:
        machine.stack.pop()


def _result(machine: Machine, node: Any, scope: Scope) -> Value:
    if isinstance(node, cst.Lambda):
        return machine.value(node.body, scope)
    statements.run(machine, node.body, scope)
    if scope.frame.yielded:
        return Every(joined(scope.frame.yielded))
    returned = scope.frame.returned
    return joined(returned) if returned else NONE


def _bind(
    machine: Machine, callee: Function, arguments: Arguments, scope: Scope
) -> None:
    parameters = callee.node.params
    positional = [*parameters.posonly_params, *parameters.params]
    rest = list(arguments.positional)
    for one in positional:
        value = rest.pop(0) if rest else arguments.get(one.name.value)
        scope.set(one.name.value, _given(machine, one, value, callee))
    for one in parameters.kwonly_params:
        value = arguments.keywords.get(one.name.value)
        scope.set(one.name.value, _given(machine, one, value, callee))
    if isinstance(parameters.star_arg, cst.Param):
        known = not arguments.starred or rest
        value = Items(tuple(rest)) if known else Every(Rows())
        scope.set(parameters.star_arg.name.value, value)
    if parameters.star_kwarg is not None:
        names = {one.name.value for one in (*positional, *parameters.kwonly_params)}
        others = {k: v for k, v in arguments.keywords.items() if k not in names}
        places = {k: v for k, v in arguments.places.items() if k not in names}
        scope.names[parameters.star_kwarg.name.value] = Mapping(others, places)


def _given(
    machine: Machine, parameter: cst.Param, value: Value | None, callee: Function
) -> Value:
    """The value of a parameter, or its default, or nothing that is known."""
    is_known = value is not UNKNOWN and not isinstance(value, Opaque)
    is_process = machine.where.engine == "horovod"
    if is_process and not is_known and _DATA.fullmatch(parameter.name.value):
        return Rows()
    if value is not None:
        return value
    if parameter.default is not None:
        return machine.value(parameter.default, callee.scope)
    return UNKNOWN


def unknown_arguments(function: Function) -> Arguments:
    """Those of a call that nobody has seen."""
    parameters = function.node.params
    count = len(parameters.posonly_params) + len(parameters.params)
    bound_to = 1 if function.owner is not None else 0
    keywords = {one.name.value: UNKNOWN for one in parameters.kwonly_params}
    return Arguments((UNKNOWN,) * (count - bound_to), keywords, starred=True)

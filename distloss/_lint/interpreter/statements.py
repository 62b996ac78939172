"""What statements do to names, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import libcst as cst

from distloss._lint import libraries
from distloss._lint.interpreter import collections, imports
from distloss._lint.interpreter.expressions import combined, truth
from distloss._lint.interpreter.machine import Machine
from distloss._lint.interpreter.scope import Scope
from distloss._lint.values import (
    NONE,
    Arguments,
    Class,
    Function,
    Items,
    Partial,
    Place,
    Value,
)


def run(machine: Machine, body: Any, scope: Scope) -> bool:
    """Runs a block; whether it ends what runs it: by `return`, `raise` and the like."""
    for statement in _lines(body):
        execute = STATEMENTS.get(type(statement))
        if execute is not None and execute(machine, statement, scope):
            return True
    return False


def _lines(body: Any) -> list[Any]:
    """The statements of a block; of a line, those between its semicolons."""
    statements: list[Any] = []
    for one in body.body if hasattr(body, "body") else ():
        if isinstance(one, cst.SimpleStatementLine):
            statements += one.body
        else:
            statements.append(one)
    return statements


def _expression(machine: Machine, node: cst.Expr, scope: Scope) -> None:
    machine.value(node.value, scope)


def _assignment(machine: Machine, node: cst.Assign, scope: Scope) -> None:
    value = machine.value(node.value, scope)
    for one in node.targets:
        collections.assign(machine, one.target, value, scope)


def _annotated(machine: Machine, node: cst.AnnAssign, scope: Scope) -> None:
    if node.value is not None:
        value = machine.value(node.value, scope)
        collections.assign(machine, node.target, value, scope)


def _augmented(machine: Machine, node: cst.AugAssign, scope: Scope) -> None:
    before = machine.value(node.target, scope)
    value = machine.value(node.value, scope)
    place = Place(scope.source, node)
    after = combined(type(node.operator), before, value, place)
    collections.assign(machine, node.target, after, scope)


def _return(machine: Machine, node: cst.Return, scope: Scope) -> bool:
    value = NONE if node.value is None else machine.value(node.value, scope)
    scope.frame.returned.append(value)
    return True


def _end(_machine: Machine, _node: cst.CSTNode, _scope: Scope) -> bool:
    return True


def _branches(
    machine: Machine, bodies: Sequence[Any], scope: Scope, *, may_skip: bool
) -> bool:
    """Blocks of which one runs, or none; whether all of them end what runs them."""
    ends = [scope.fork()] if may_skip else []
    for body in bodies:
        branch = scope.fork()
        with machine.holding(in_branch=True):
            if not run(machine, body, branch):
                ends.append(branch)
    scope.meet(ends)
    return not ends


def _if(machine: Machine, node: cst.If, scope: Scope) -> bool:
    known = truth(machine.value(node.test, scope))
    orelse = node.orelse
    if known is True:
        return run(machine, node.body, scope)
    if known is False:
        return orelse is not None and _or_else(machine, orelse, scope)
    if orelse is None:
        return _branches(machine, [node.body], scope, may_skip=True)
    other = orelse.body if isinstance(orelse, cst.Else) else _Block([orelse])
    return _branches(machine, [node.body, other], scope, may_skip=False)


class _Block:
    """`elif` as the block of an `else`."""

    def __init__(self, body: list[Any]) -> None:
        self.body = body


def _or_else(machine: Machine, node: Any, scope: Scope) -> bool:
    return (
        _if(machine, node, scope)
        if isinstance(node, cst.If)
        else run(machine, node.body, scope)
    )


def _for(machine: Machine, node: cst.For, scope: Scope) -> None:
    value = machine.value(node.iter, scope)
    known = value.items if isinstance(value, Items) and len(value.items) <= 4 else ()
    if known:
        for item in known:
            collections.assign(machine, node.target, item, scope)
            if run(machine, node.body, scope):
                break
        return
    collections.assign(machine, node.target, collections.item_of(value), scope)
    _branches(machine, [node.body], scope, may_skip=False)


def _while(machine: Machine, node: cst.While, scope: Scope) -> None:
    machine.value(node.test, scope)
    _branches(machine, [node.body], scope, may_skip=False)


def _with(machine: Machine, node: cst.With, scope: Scope) -> bool:
    where = machine.where
    for item in node.items:
        value = machine.value(item.item, scope)
        where = libraries.entered(value, where)
        if item.asname is not None:
            collections.assign(machine, item.asname.name, value, scope)
    with machine.at(where):
        return run(machine, node.body, scope)


def _try(machine: Machine, node: cst.Try | cst.TryStar, scope: Scope) -> bool:
    ended = run(machine, node.body, scope)
    if node.handlers:
        handlers = [handler.body for handler in node.handlers]
        if ended:
            ended = _branches(machine, handlers, scope, may_skip=False)
        else:
            _branches(machine, handlers, scope, may_skip=True)
    if node.orelse is not None and not ended:
        ended = run(machine, node.orelse.body, scope)
    if node.finalbody is not None:
        run(machine, node.finalbody.body, scope)
    return ended


def _match(machine: Machine, node: cst.Match, scope: Scope) -> None:
    machine.value(node.subject, scope)
    _branches(machine, [case.body for case in node.cases], scope, may_skip=True)


def _function(machine: Machine, node: cst.FunctionDef, scope: Scope) -> None:
    value: Value = Function(node, scope.source, scope)
    for one in reversed(node.decorators):
        value = _decorated(machine, one.decorator, value, scope)
    scope.names[node.name.value] = value


def _decorated(
    machine: Machine, node: cst.BaseExpression, value: Value, scope: Scope
) -> Value:
    """A decorated function is the function, unless the decorator is of the program."""
    decorator = machine.value(node, scope)
    if isinstance(decorator, (Function, Partial)):
        place = Place(scope.source, node)
        wrapped = machine.call(decorator, Arguments((value,), place=place), place)
        return wrapped if isinstance(wrapped, (Function, Partial)) else value
    return value


def _class(machine: Machine, node: cst.ClassDef, scope: Scope) -> None:
    inner = Scope(scope.source, parent=scope)
    run(machine, node.body, inner)
    bases = tuple(machine.value(base.value, scope) for base in node.bases)
    made = Class(node, scope.source, inner.names, bases)
    for name, value in inner.names.items():
        if isinstance(value, Function):
            # A method does not see the names of the class; what a decorator made of
            # it sees those of the decorator.
            seen = scope if value.scope is inner else value.scope
            inner.names[name] = Function(
                value.node, value.source, seen, value.owner, made
            )
    scope.names[node.name.value] = made


def _import(_machine: Machine, node: cst.Import, scope: Scope) -> None:
    for alias in node.names:
        imports.import_module(alias, scope)


def _import_from(_machine: Machine, node: cst.ImportFrom, scope: Scope) -> None:
    imports.import_names(node, scope)


STATEMENTS: dict[type, Callable[[Machine, Any, Scope], bool | None]] = {
    cst.Expr: _expression,
    cst.Assign: _assignment,
    cst.AnnAssign: _annotated,
    cst.AugAssign: _augmented,
    cst.Return: _return,
    cst.Raise: _end,
    cst.Break: _end,
    cst.Continue: _end,
    cst.If: _if,
    cst.For: _for,
    cst.While: _while,
    cst.With: _with,
    cst.Try: _try,
    cst.TryStar: _try,
    cst.Match: _match,
    cst.FunctionDef: _function,
    cst.ClassDef: _class,
    cst.Import: _import,
    cst.ImportFrom: _import_from,
}

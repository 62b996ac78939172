"""Files of the program, executed when something of them is first asked for."""

from __future__ import annotations

from distloss._lint.interpreter import calls, expressions, statements
from distloss._lint.interpreter.machine import MAX_FILES, Language, Machine
from distloss._lint.interpreter.scope import Scope
from distloss._lint.values import UNKNOWN, Const, Imported, Module, Value


def module_member(machine: Machine, module: Module, name: str) -> Value:
    """A name of a file of the program."""
    path = module.path
    if path not in machine.modules:
        source = machine.read(path) if len(machine.modules) < MAX_FILES else None
        if source is None:
            return UNKNOWN
        scope = Scope(source, {"__name__": Const(path.stem)})
        machine.modules[path] = scope
        statements.run(machine, source.tree, scope)
    value = machine.modules[path].names.get(name, UNKNOWN)
    return machine.imported(value) if isinstance(value, Imported) else value


PYTHON = Language(expressions.EXPRESSIONS, calls.called, module_member)

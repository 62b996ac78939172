"""Where a program starts: its top, what `distloss audit` calls, what nobody calls."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from dataclasses import replace

from distloss._lint.facts import Facts, Where
from distloss._lint.interpreter import calls, statements
from distloss._lint.interpreter.machine import Machine, OutOfSteps
from distloss._lint.interpreter.members import bound
from distloss._lint.interpreter.modules import PYTHON
from distloss._lint.interpreter.scope import Scope
from distloss._lint.quantities import Rows
from distloss._lint.source import Source
from distloss._lint.values import (
    Arguments,
    Class,
    Const,
    Function,
    Instance,
    Items,
    Made,
    Place,
    Value,
)

_HOROVOD = re.compile(r"^\s*(import|from)\s+horovod\b|\bhvd\.", re.M)
_OURS = re.compile(r"\bdistloss\b")
_ONE_DEVICE = Where()
_PROCESSES = Where("horovod", replica=True, sure=True)
_SCOPE = Where("strategy", replica=False, sure=True, unseen=True)


def facts_of(
    source: Source,
    read: Callable[[pathlib.Path], Source | None],
    build: str | None = None,
) -> Facts:
    """Follows a program from where it starts.

    Args:
      source: the file.
      read: gives other files of the program, or None.
      build: the name of a function that `distloss audit` takes. None: the file is a
        script or a module, and what looks like such a function is taken for one.

    Returns:
      What was seen, up to the limits of `interpreter/machine.py`.
    """
    machine = Machine(PYTHON, read)
    machine.facts.horovod = _HOROVOD.search(source.text) is not None
    scope = Scope(source, {"__name__": Const("__main__" if build is None else "")})
    machine.modules[source.path] = scope
    base = _PROCESSES if machine.facts.horovod else _ONE_DEVICE
    try:
        with machine.at(base):
            statements.run(machine, source.tree, scope)
        _run_roots(machine, scope, base, build)
    except (OutOfSteps, RecursionError):
        pass  # what was seen is true all the same
    return machine.facts


def _run_roots(machine: Machine, scope: Scope, base: Where, build: str | None) -> None:
    audited = replace(_PROCESSES, unseen=True) if machine.facts.horovod else _SCOPE
    if build is not None:
        function = scope.get(build)
        if isinstance(function, Function):
            _run_build(machine, function, audited)
        return
    unseen = replace(base, unseen=True)
    for value in list(scope.names.values()):
        if isinstance(value, Function) and value.node not in machine.reached:
            if _is_build(machine, value, scope, audited):
                _run_build(machine, value, audited)
            else:
                with machine.at(unseen):
                    _call_unseen(machine, value)
        elif isinstance(value, Class) and value.source is scope.source:
            with machine.at(unseen):
                _run_methods(machine, value)


def _place(function: Function) -> Place:
    return Place(function.source, function.node)


def _call_unseen(machine: Machine, function: Function) -> Value:
    arguments = calls.unknown_arguments(function)
    return machine.call(function, arguments, _place(function))


def _run_methods(machine: Machine, kind: Class) -> None:
    """Those that nobody in the program calls."""
    place = Place(kind.source, kind.node)
    methods = [value for value in kind.members.values() if isinstance(value, Function)]
    if all(method.node in machine.reached for method in methods):
        return
    start = kind.member("__init__")
    arguments = Arguments(starred=True)
    if isinstance(start, Function):
        arguments = calls.unknown_arguments(start)
        arguments = Arguments(
            arguments.positional[1:], arguments.keywords, starred=True
        )
    made = calls.instance_of(machine, kind, arguments, place)
    for method in methods:
        if method.node not in machine.reached:
            step = bound(machine, method, made, place)
            if isinstance(step, Function):
                _call_unseen(machine, step)


# -- what `distloss audit` takes


def _is_build(machine: Machine, function: Function, scope: Scope, where: Where) -> bool:
    """Whether it takes nothing and returns what `distloss audit` takes."""
    parameters = function.node.params
    if (
        parameters.params
        or parameters.kwonly_params
        or function.source is not scope.source
    ):
        return False
    facts, reached = machine.facts, set(machine.reached)
    with machine.holding(facts=Facts(horovod=facts.horovod)), machine.at(where):
        result = machine.call(function, Arguments(), _place(function))
        compiled = [one.model for one in machine.facts.compiled]
    machine.reached = reached
    if not (isinstance(result, Items) and len(result.items) == 2):
        return False
    if _trainee(result.items[0]) is not None:
        return True
    is_compiled = any(model is result.items[0] for model in compiled)
    return is_compiled and _OURS.search(scope.source.text) is not None


def _trainee(value: Value) -> Instance | None:
    """An object with a step of its own, as `distloss audit` takes it."""
    if not isinstance(value, Instance) or value.kind.inherits("keras."):
        return None
    step = value.kind.member("train_step")
    is_one = isinstance(step, Function) and value.kind.member("trainable_variables")
    return value if is_one else None


def _run_build(machine: Machine, function: Function, where: Where) -> None:
    place = _place(function)
    with machine.at(where):
        result = machine.call(function, Arguments(), place)
    if not (isinstance(result, Items) and len(result.items) == 2):
        return
    trainee = _trainee(result.items[0])
    if trainee is None:
        return
    replica = replace(where, replica=True)
    step = trainee.kind.member("train_step")
    assert isinstance(step, Function)  # noqa: S101  # a trainee has one
    with machine.at(replica):
        arguments = Arguments((_batch(result.items[1]),), place=place)
        machine.call(bound(machine, step, trainee, place), arguments, place)
    _run_dataset(machine, trainee, place)


def _batch(value: Value) -> Value:
    """The parts of a batch: `(x, y)` or `(x, y, sample_weight)`."""
    count = len(value.items) if isinstance(value, Items) else 2
    return Items((Rows(), Rows(), Rows(weights=True))[:count])


def _run_dataset(machine: Machine, trainee: Instance, place: Place) -> None:
    method = trainee.kind.member("dataset")
    if isinstance(method, Function):
        context = Made("tensorflow.distribute.InputContext", Arguments(), place)
        with machine.holding(in_dataset_function=True):
            arguments = Arguments((context,), place=place)
            machine.call(bound(machine, method, trainee, place), arguments, place)

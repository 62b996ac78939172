"""Functions of Python itself that hand values on."""

from __future__ import annotations

from dataclasses import replace

from distloss._lint.facts import Gradient
from distloss._lint.interpreter.collections import item_of, zipped
from distloss._lint.libraries.call import Call, Handler
from distloss._lint.libraries.distribution import iterated
from distloss._lint.libraries.tensors import add_up, scalar_only
from distloss._lint.quantities import LOCAL, Rows, scalar
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Const,
    Every,
    Items,
    Mapping,
    Partial,
    Value,
)


def _mapped(call: Call) -> Value:
    function, *values = call.arguments.positional or (UNKNOWN,)
    if len(values) == 1 and isinstance(values[0], Items):
        items = [_applied(call, function, (item,)) for item in values[0].items]
        return Items(tuple(items))
    return Every(_applied(call, function, tuple(item_of(value) for value in values)))


def _applied(call: Call, function: Value, values: tuple[Value, ...]) -> Value:
    return call.machine.call(function, Arguments(values), call.place)


def _partial(call: Call) -> Value:
    given = call.arguments
    if not given.positional:
        return UNKNOWN
    rest = replace(given, positional=given.positional[1:])
    return Partial(given.positional[0], rest)


def _enumerated(call: Call) -> Value:
    value = call.first
    if isinstance(value, Items):
        pairs = [Items((Const(i), item)) for i, item in enumerate(value.items)]
        return Items(tuple(pairs))
    return Every(Items((UNKNOWN, item_of(value))))


def _length(call: Call) -> Value:
    return scalar(LOCAL) if isinstance(call.first, Rows) else UNKNOWN


def _sequence(call: Call) -> Value:
    value = call.first
    known = (Items, Every, Gradient, Mapping)
    return value if isinstance(value, known) else Every(item_of(value))


def _is_a(_call: Call) -> Value:
    return UNKNOWN


PYTHON: dict[str, Handler] = {
    "map": _mapped,
    "filter": lambda call: call.get("", 1),
    "zip": lambda call: zipped(call.arguments.positional),
    "enumerate": _enumerated,
    "list": _sequence,
    "tuple": _sequence,
    "reversed": _sequence,
    "sorted": _sequence,
    "iter": lambda call: call.first,
    "next": iterated,
    "sum": lambda call: add_up(call.first, call.place),
    "len": _length,
    "float": scalar_only,
    "int": scalar_only,
    "isinstance": _is_a,
}
EXTERNAL: dict[str, Handler] = {
    "functools.partial": _partial,
    "tensorflow.function": lambda call: call.first,
}


def _values(call: Call) -> Value:
    value = call.receiver
    return Items(tuple(value.items.values())) if isinstance(value, Mapping) else UNKNOWN


def _pairs(call: Call) -> Value:
    value = call.receiver
    if isinstance(value, Mapping):
        return Every(Items((UNKNOWN, item_of(Items(tuple(value.items.values()))))))
    return UNKNOWN


METHODS: dict[str, Handler] = {"values": _values, "items": _pairs}

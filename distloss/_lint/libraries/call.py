"""A call of another package, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distloss._lint.interpreter.machine import Machine
from distloss._lint.quantities import Rows, Tensor
from distloss._lint.values import (
    UNKNOWN,
    Arguments,
    Const,
    Every,
    Items,
    Made,
    Mapping,
    Place,
    Ref,
    Value,
)


@dataclass(frozen=True)
class Call:
    """What is called, where, and with what.

    Attributes:
      machine: that follows the program.
      name: canonical address, or name of a method.
      arguments: of the call.
      place: of the call.
      receiver: of which it is a method.
    """

    machine: Machine
    name: str
    arguments: Arguments
    place: Place
    receiver: Value = UNKNOWN

    def get(self, name: str, position: int | None = None) -> Value:
        """An argument; UNKNOWN if it is not known, or not there."""
        return self.arguments.get(name, position) or UNKNOWN

    def gives(self, name: str, position: int | None = None) -> bool:
        """Whether an argument is given and not None."""
        value = self.arguments.get(name, position)
        return value is not None and not (
            isinstance(value, Const) and value.value is None
        )

    @property
    def first(self) -> Value:
        """The first argument, whatever its name."""
        given = self.arguments.all
        return given[0] if given else UNKNOWN


Handler = Callable[[Call], Value]


def rows_among(values: tuple[Value, ...]) -> list[Rows]:
    """The tensors of rows that are somewhere in these."""
    found: list[Rows] = []
    for value in values:
        if isinstance(value, Rows):
            found.append(value)
        elif isinstance(value, Items):
            found += rows_among(value.items)
        elif isinstance(value, Mapping):
            found += rows_among(tuple(value.items.values()))
        elif isinstance(value, Every):
            found += rows_among((value.item,))
    if found and any(is_variable(value) for value in values):
        found.append(Rows(of_model=True))
    return found


def is_variable(value: Value) -> bool:
    """Whether it is a variable that the program made by hand."""
    return isinstance(value, Made) and value.name.endswith(".Variable")


def has_scalars(values: tuple[Value, ...]) -> bool:
    """Whether there are tensors that have no rows."""
    return any(isinstance(v, Tensor) and not isinstance(v, Rows) for v in values)


def word(value: Value) -> str:
    """The last word of an enumeration or text: `"sum"` for `ReduceOp.SUM`."""
    if isinstance(value, Ref):
        return value.name.rpartition(".")[2].lower()
    return str(value.value).lower() if isinstance(value, Const) else ""


def is_true(value: Value) -> bool:
    """Whether it is True for certain."""
    return isinstance(value, Const) and value.value is True

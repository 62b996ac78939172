"""What the interpreter knows of a value in a program: never more than is visible."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import libcst as cst

if TYPE_CHECKING:
    from distloss._lint.interpreter.scope import Scope
    from distloss._lint.source import Source


class Value:
    """Something of which nothing is known."""


UNKNOWN = Value()


@dataclass(frozen=True)
class Place:
    """Where something stands.

    Attributes:
      source: the file.
      node: the expression or statement in it.
    """

    source: Source
    node: cst.CSTNode


@dataclass(frozen=True)
class Const(Value):
    """A number, a text, a truth value or None.

    Attributes:
      value: that.
      name: of the variable that it was read from, "" for a literal.
    """

    value: Any
    name: str = ""


NONE = Const(None)


@dataclass(frozen=True)
class Opaque(Value):
    """Something unknown of which the name is all that can be said.

    Attributes:
      name: as it is written, such as `"self.strategy"`.
    """

    name: str

    @property
    def last(self) -> str:
        """What is after the last dot."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Ref(Value):
    """Something of another package, by its canonical address (see `names.py`)."""

    name: str


@dataclass(frozen=True)
class Items(Value):
    """A tuple or a list of known length."""

    items: tuple[Value, ...]


@dataclass(frozen=True)
class Every(Value):
    """A collection of unknown length, whose items are all like this one."""

    item: Value


@dataclass(frozen=True)
class Mapping(Value):
    """A dictionary with constant keys.

    Attributes:
      items: by key.
      places: where keyword arguments stand that were collected in it.
    """

    items: dict[Any, Value]
    places: dict[str, Place] = field(default_factory=dict)


@dataclass(frozen=True)
class Arguments:
    """What a call passes.

    Attributes:
      positional: in order.
      keywords: by name.
      place: of the call.
      places: of single arguments, by keyword.
      starred: whether there are more that are not known.
    """

    positional: tuple[Value, ...] = ()
    keywords: dict[str, Value] = field(default_factory=dict)
    place: Place | None = None
    places: dict[str, Place] = field(default_factory=dict)
    starred: bool = False

    def get(self, name: str, position: int | None = None) -> Value | None:
        """The argument of that name or position, or None where it was not given."""
        if name in self.keywords:
            return self.keywords[name]
        if position is not None and position < len(self.positional):
            return self.positional[position]
        return UNKNOWN if self.starred else None

    def after(self, first: Value) -> Arguments:
        """The same with one more in front."""
        return replace(self, positional=(first, *self.positional))

    @property
    def all(self) -> tuple[Value, ...]:
        """Every one that is known."""
        return (*self.positional, *self.keywords.values())


@dataclass(frozen=True)
class Function(Value):
    """A function, method or lambda of the program.

    Attributes:
      node: its definition.
      source: the file of that.
      scope: where it was defined.
      owner: what it is bound to, as `self`.
      home: the class that defines it, for `super()`.
    """

    node: cst.FunctionDef | cst.Lambda
    source: Source
    scope: Scope
    owner: Value | None = None
    home: Class | None = None


@dataclass(frozen=True)
class Partial(Value):
    """A function with some of its arguments."""

    function: Value
    arguments: Arguments


@dataclass(eq=False)
class Class(Value):
    """A class of the program.

    Attributes:
      node: its definition.
      source: the file of that.
      members: its methods and constants.
      bases: what it inherits from.
    """

    node: cst.ClassDef
    source: Source
    members: dict[str, Value]
    bases: tuple[Value, ...]

    def line(self) -> list[Value]:
        """The class and all that it inherits from, in the order of look-up."""
        found: list[Value] = [self]
        for base in self.bases:
            found += base.line() if isinstance(base, Class) else [base]
        return found

    def member(self, name: str) -> Value | None:
        """A method or constant of this class or of those that it inherits from."""
        for one in self.line():
            if isinstance(one, Class) and name in one.members:
                return one.members[name]
        return None

    def inherits(self, *prefixes: str) -> bool:
        """Whether it inherits from a class of another package with such an address."""
        names = [base.name for base in self.line() if isinstance(base, Ref)]
        return any(name.startswith(prefixes) for name in names)


@dataclass(eq=False)
class Instance(Value):
    """An object of a class of the program."""

    kind: Class
    attributes: dict[str, Value]
    place: Place | None
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Made(Value):
    """What a function or class of another package returned.

    Attributes:
      name: its canonical address.
      arguments: what it was given.
      place: of the call.
      state: what became of it.
    """

    name: str
    arguments: Arguments
    place: Place | None
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(Value):
    """A method of something that is no object of the program."""

    receiver: Value
    name: str


@dataclass(eq=False)
class Module(Value):
    """A file of the program, which is read when something of it is asked for."""

    path: pathlib.Path


@dataclass(frozen=True)
class Imported(Value):
    """A name of another file of the program, looked up when it is first used.

    Attributes:
      module: the file.
      name: in it.
      submodule: the file that it may be instead, if it is a folder.
    """

    module: Module
    name: str
    submodule: Module | None

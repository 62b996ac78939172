"""The state of a program that is followed, and the limits of following it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import libcst as cst

from distloss._lint.facts import Facts, Where
from distloss._lint.values import UNKNOWN, Arguments, Imported, Module, Place, Value

if TYPE_CHECKING:
    from distloss._lint.interpreter.scope import Scope
    from distloss._lint.source import Source

MAX_STEPS = 60_000
MAX_CALLS = 20
MAX_FILES = 12


class OutOfSteps(Exception):
    """The program is too large to be followed to its end; what was seen is kept."""


@dataclass(frozen=True)
class Language:
    """What code means: each part needs the machine, and the machine needs them all.

    Attributes:
      expressions: what an expression is, by its kind.
      called: what a call returns.
      module_member: a name of another file.
    """

    expressions: dict[type, Callable[[Machine, Any, Scope], Value]]
    called: Callable[[Machine, Value, Arguments, Place], Value]
    module_member: Callable[[Machine, Module, str], Value]


class Machine:
    """Follows one program.

    Attributes:
      facts: what it saw.
      where: it is.
      in_branch: whether the statement may not run.
      reached: definitions of functions that were called.
      stack: of those that are being called.
      modules: names of the files of the program that were read, by path.
      in_dataset_function: whether it makes the data set of one input pipeline.
    """

    def __init__(
        self, language: Language, read: Callable[[pathlib.Path], Source | None]
    ) -> None:
        self._language = language
        self.facts = Facts()
        self.where = Where()
        self.in_branch = False
        self.reached: set[cst.CSTNode] = set()
        self.stack: list[cst.CSTNode] = []
        self.modules: dict[pathlib.Path, Scope] = {}
        self.in_dataset_function = False
        self.read = read
        self._steps = MAX_STEPS

    def value(self, node: cst.CSTNode, scope: Scope) -> Value:
        """What an expression is."""
        self._steps -= 1
        if self._steps < 0:
            raise OutOfSteps
        compute = self._language.expressions.get(type(node))
        return compute(self, node, scope) if compute else UNKNOWN

    def call(self, callee: Value, arguments: Arguments, place: Place) -> Value:
        """What a call returns."""
        return self._language.called(self, callee, arguments, place)

    def module_member(self, module: Module, name: str) -> Value:
        """A name of another file of the program."""
        return self._language.module_member(self, module, name)

    def imported(self, what: Imported) -> Value:
        """What `from file import name` imports."""
        value = self.module_member(what.module, what.name)
        if value is UNKNOWN and what.submodule is not None:
            return what.submodule
        return value

    @contextlib.contextmanager
    def at(self, where: Where) -> Iterator[None]:
        """Somewhere else in the program."""
        before, self.where = self.where, where
        try:
            yield
        finally:
            self.where = before

    @contextlib.contextmanager
    def holding(self, **state: Any) -> Iterator[None]:
        """With other values of attributes."""
        before = {name: getattr(self, name) for name in state}
        vars(self).update(state)
        try:
            yield
        finally:
            vars(self).update(before)

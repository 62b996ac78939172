"""One private name of another package: what it is for, and what is said without it.

A release that moves such a name must not end in an AttributeError, and never in a wrong
number: whoever uses the name asks for it here, and is told which release has it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from distloss._errors import BackendError, UntestedVersionWarning

# AutoGraph would look into what imports modules, and say that it cannot.
_without_autograph = tf.autograph.experimental.do_not_convert

Release = tuple[int, int]


@dataclass(frozen=True)
class Package:
    """A package whose private names are used.

    Attributes:
      module: what is imported.
      said: what people call it.
      install: what pip calls it.
      oldest: the first release with which all tests pass.
      newest: the last one.
    """

    module: str
    said: str
    install: str
    oldest: Release
    newest: Release

    def version(self) -> str:
        """That is installed, such as "3.15.1"."""
        return str(importlib.import_module(self.module).__version__)

    def release(self) -> Release:
        """Its first two numbers."""
        major, minor = self.version().split(".")[:2]
        return int(major), int(minor)

    @property
    def is_tested(self) -> bool:
        """Whether the installed release is none that came after the tests."""
        return self.release() <= self.newest

    def range_of(self, since: Release | None, until: Release | None) -> str:
        """Releases, in words: "Keras 3.5 to 3.15"."""
        first, last = since or self.oldest, until or self.newest
        return f"{self.said} {_said(first)} to {_said(last)}"


def _said(release: Release) -> str:
    return ".".join(map(str, release))


@dataclass(frozen=True)
class Group:
    """Names that serve one purpose.

    Attributes:
      title: in one or two words.
      package: where they are.
      instead: what else a user can do with a release that lacks one of them, as
        the end of a sentence that begins "Use Keras 3.3 to 3.15, or".
    """

    title: str
    package: Package
    instead: str


@functools.cache
def warn_if_untested(package: Package) -> None:
    """Warns, once, where the installed release is newer than those of the tests."""
    if not package.is_tested:
        warnings.warn(
            f"distloss was tested with {package.range_of(None, None)}. Got "
            f"{package.install}=={package.version()}, which is newer. Private names "
            "that it lacks are an error where they are used; `distloss doctor` looks "
            "for all of them. To be sure of the numbers: pip install "
            f'"{package.install}<{_said(_after(package.newest))}".',
            UntestedVersionWarning,
            stacklevel=4,
        )


def _after(release: Release) -> Release:
    return release[0], release[1] + 1


@dataclass(frozen=True)
class PrivateName:
    """One name.

    Attributes:
      group: what it belongs to.
      owner: the address of the module or class that has it.
      name: its name there.
      purpose: what for, as the end of a sentence that begins "distloss needs it to".
      test: of `tests/core`, that fails when another release differs.
      since: the first release that has it and of which it is needed; None for all.
      until: the last one of which it is needed.
      is_of_instances: whether objects of the class get it when they are made.
      arguments: of a function, those that distloss gives to it or takes in its place,
        by name or in this order; None where that does not matter.
      is_optional: whether a release may lack it, and numbers are right all the same.
    """

    group: Group
    owner: str
    name: str
    purpose: str
    test: str = "test_private_names.py::test_a_name_is_where_the_table_says"
    since: Release | None = None
    until: Release | None = None
    is_of_instances: bool = False
    arguments: tuple[str, ...] | None = None
    is_optional: bool = False

    @property
    def address(self) -> str:
        """Where it is."""
        return f"{self.owner}.{self.name}"

    @property
    @_without_autograph
    def is_due(self) -> bool:
        """Whether the installed release is one of which it is needed."""
        release = self.group.package.release()
        return (self.since or release) <= release <= (self.until or release)

    @_without_autograph
    def of(self, holder: Any) -> Any:
        """What `holder` has by this name.

        Raises:
          BackendError: nothing.
        """
        warn_if_untested(self.group.package)
        try:
            return getattr(holder, self.name)
        except AttributeError as error:
            raise self.missing() from error

    @_without_autograph
    def found(self) -> Any:
        """What the module or class has by this name.

        Raises:
          BackendError: nothing, or there is no such module or class.
        """
        return self.of(self.owners())

    @_without_autograph
    def put(self, holder: Any, value: Any) -> None:
        """Gives `value` to `holder` in the place of what it has by this name.

        Raises:
          BackendError: it has nothing, so nobody would ask for `value`.
        """
        self.of(holder)
        setattr(holder, self.name, value)

    def check(self, holder: Any = None) -> None:
        """Looks whether it is there and takes what distloss gives.

        Args:
          holder: an object that has it; None looks at the module or class.

        Raises:
          BackendError: it does not.
        """
        if not self.is_due or self.is_optional:
            return
        found = self.found() if holder is None else self.of(holder)
        if self.arguments is not None:
            self._check_arguments(found)

    def _check_arguments(self, function: Any) -> None:
        while isinstance(function, functools.partial):  # one of ours, in its place
            function = function.args[0]
        wanted = list(self.arguments or ())
        got = [x for x in inspect.signature(function).parameters if x != "self"]
        if got[: len(wanted)] != wanted:
            raise self.missing(f"has it with other arguments, ({', '.join(got)})")

    def owners(self) -> Any:
        """The module or class.

        Raises:
          BackendError: there is none of this address.
        """
        module, *rest = _split(self.owner)
        try:
            return functools.reduce(getattr, rest, importlib.import_module(module))
        except (AttributeError, ImportError) as error:
            raise self.missing() from error

    def missing(self, problem: str = "does not have it") -> BackendError:
        """The error for a release without it."""
        package = self.group.package
        return BackendError(
            f"Expected {package.said} with {self.address}, which distloss needs to "
            f"{self.purpose}. Got {package.install}=={package.version()}, which "
            f"{problem}. Use {package.range_of(self.since, self.until)}, or "
            f"{self.group.instead}."
        )


def _split(address: str) -> list[str]:
    """A module, and the names of classes in it, which begin with a capital letter."""
    parts = address.split(".")
    classes = [part for part in parts if part.lstrip("_")[:1].isupper()]
    return [".".join(parts[: len(parts) - len(classes)]), *classes]


@_without_autograph
def check(*names: PrivateName, holder: Any = None) -> None:
    """Looks for all of `names` before the first is used.

    Args:
      names: of modules and classes, and of what `holder` has.
      holder: an object with those names that objects get when they are made.

    Raises:
      BackendError: one is missing.
    """
    for name in names:
        name.check(holder if name.is_of_instances else None)

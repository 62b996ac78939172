"""Names and what they hold, in blocks that may or may not run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from distloss._lint.quantities import Rows, Scalar, terms_of
from distloss._lint.source import Source
from distloss._lint.values import NONE, UNKNOWN, Const, Items, Made, Value

_WEIGHT = re.compile(r"weight|mask|is_(?!training)|valid|padding", re.I)


@dataclass(eq=False)
class Frame:
    """A call that is going on.

    Attributes:
      returned: values of its `return` so far.
      yielded: values of its `yield` so far.
    """

    returned: list[Value] = field(default_factory=list)
    yielded: list[Value] = field(default_factory=list)


@dataclass(eq=False)
class Scope:
    """The names of a module, class or function.

    Attributes:
      source: the file.
      names: of this level.
      parent: where names are looked up that are not of this level.
      frame: the call whose names these are.
    """

    source: Source
    names: dict[str, Value] = field(default_factory=dict)
    parent: Scope | None = None
    frame: Frame = field(default_factory=Frame)

    def get(self, name: str) -> Value:
        """What a name holds."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return UNKNOWN

    def set(self, name: str, value: Value) -> None:
        """Lets a name hold a value."""
        self.names[name] = named(value, name)

    def fork(self) -> Scope:
        """The same names for a block that may not run."""
        return Scope(self.source, dict(self.names), self.parent, self.frame)

    def meet(self, ends: list[Scope]) -> None:
        """Goes on after blocks of which one ran."""
        for name in {name for end in ends for name in end.names}:
            values = [end.names[name] for end in ends if name in end.names]
            self.names[name] = joined(values)


def named(value: Value, name: str) -> Value:
    """A value that a name was given to, which may say what it is."""
    if isinstance(value, Const) and not value.name:
        return replace(value, name=name)
    if isinstance(value, Rows) and not value.of_model and _WEIGHT.search(name):
        return replace(value, weights=True)
    return value


def joined(values: list[Value]) -> Value:
    """What is one of these. What differs is not known."""
    if not values:
        return UNKNOWN
    first = values[0]
    for other in values[1:]:
        first = _either(first, other)
    return first


def _either(one: Value, other: Value) -> Value:
    if one is other or one == other or other == NONE:
        return one
    if one == NONE:
        return other
    if isinstance(one, Items) and isinstance(other, Items):
        return _either_items(one, other)
    if _alike(one, other):
        return one
    return _more_terms(one, other) or _strategy_of(one, other)


def _either_items(one: Items, other: Items) -> Value:
    if len(one.items) != len(other.items):
        return UNKNOWN
    pairs = zip(one.items, other.items, strict=True)
    return Items(tuple(_either(a, b) for a, b in pairs))


def _alike(one: Value, other: Value) -> bool:
    """Whether two losses differ in nothing that matters."""
    if isinstance(one, (Scalar, Rows)) and type(one) is type(other):
        assert isinstance(other, (Scalar, Rows))  # noqa: S101  # the same type
        return one.powers == other.powers and one.weighted == other.weighted
    return False


def _more_terms(one: Value, other: Value) -> Value | None:
    """A loss to which a branch has added something: what is added counts there."""
    terms = [{term.powers for term in terms_of(value)} for value in (one, other)]
    if not all(terms) or isinstance(one, Rows) or isinstance(other, Rows):
        return None
    if terms[0] >= terms[1]:
        return one
    return other if terms[0] < terms[1] else None


def _strategy_of(one: Value, other: Value) -> Value:
    """Strategies are told apart only by whether they have several replicas."""
    start = "tensorflow.distribute."
    found = [
        v for v in (one, other) if isinstance(v, Made) and v.name.startswith(start)
    ]
    if len(found) < 2:
        return UNKNOWN
    few = (
        "tensorflow.distribute.get_strategy",
        "tensorflow.distribute.OneDeviceStrategy",
    )
    return next((made for made in found if made.name not in few), found[0])

"""Losses as products of what decides their scale: sums, counts, replicas.

The formula of this package (`distloss/_formula`) with names instead of numbers. A
`Scalar` is such a product: `SUM * LOCAL**-1` is the mean over the rows of a replica,
`SUM * GLOBAL**-1` a share of the mean over all. Factors that are the same however a
batch is split, such as 0.5, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from distloss._lint.values import UNKNOWN, Const, Place, Value

# what may stand in the numerator of a loss
SUM = "sum over the rows of a replica"
SHARE = "share of the mean over all rows"
ALL = "sum over replicas, taken while gradients are recorded"
PENALTY = "term that is the same on every replica"
RATIO = "ratio of sums"
NUMERATORS = frozenset({SUM, SHARE, ALL, PENALTY, RATIO})
# what divides it
LOCAL = "rows of a replica"
WEIGHT = "weight of the rows of a replica"
GLOBAL = "rows, or weight, of all replicas"
CONSTANT = "a constant"
NOMINAL = "a constant number of rows times the replicas"
REPLICAS = "number of replicas"

_LARGE = 1e15

Powers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Step:
    """One thing that was done to a loss.

    Attributes:
      kind: such as `"mean"` or `"divided by replicas"`.
      place: where.
      name: of a constant that takes part.
      origin: where the loss object was made that did it.
    """

    kind: str
    place: Place
    name: str = ""
    origin: Place | None = None


@dataclass(frozen=True)
class Tensor(Value):
    """What `Rows` and `Scalar` share.

    Attributes:
      powers: exponents of the factors above.
      steps: what was done, in order.
      weighted: whether losses were multiplied by weights.
      of_model: whether it depends on trainable variables.
      sure: whether all that made it is known.
      rank: number of axes of the losses, or None.
      part: whether it is of a micro-batch only.
    """

    powers: Powers = ()
    steps: tuple[Step, ...] = ()
    weighted: bool = False
    of_model: bool = False
    sure: bool = True
    rank: int | None = None
    part: bool = False

    def power(self, base: str) -> int:
        """The exponent of a factor."""
        return dict(self.powers).get(base, 0)

    def last(self, *kinds: str) -> Step | None:
        """The last step of one of these kinds."""
        return next((s for s in reversed(self.steps) if s.kind in kinds), None)

    def times(self, base: str, exponent: int = 1, step: Step | None = None) -> Tensor:
        """The same multiplied by a power of a factor."""
        powers = _product(dict(self.powers), {base: exponent})
        return replace(
            self, powers=powers, steps=(*self.steps, *((step,) if step else ()))
        )


@dataclass(frozen=True)
class Rows(Tensor):
    """A tensor with an axis of rows, times scalar factors.

    Attributes:
      weights: whether it is itself a weight or a mask.
      gathered: whether rows of other replicas are in it.
    """

    weights: bool = False
    gathered: bool = False


@dataclass(frozen=True)
class Shape(Value):
    """The shape of a tensor with an axis of rows."""

    of: Rows


@dataclass(frozen=True)
class Scalar(Tensor):
    """A product of factors."""

    @property
    def numerator(self) -> str | None:
        """What it is a multiple of, or None for counts and factors."""
        return next((b for b, n in self.powers if b in NUMERATORS and n == 1), None)


@dataclass(frozen=True)
class Terms(Value):
    """A sum of scalars.

    Attributes:
      items: those that are known.
      whole: whether these are all.
    """

    items: tuple[Scalar, ...]
    whole: bool = True


def scalar(base: str, *, of_model: bool = False, part: bool = False) -> Scalar:
    """The factor itself."""
    return Scalar(powers=((base, 1),), of_model=of_model, part=part)


def _product(one: Mapping[str, int], other: Mapping[str, int]) -> Powers:
    powers = {base: one.get(base, 0) + other.get(base, 0) for base in {*one, *other}}
    return tuple(sorted((base, n) for base, n in powers.items() if n))


def terms_of(value: Value) -> tuple[Scalar, ...]:
    """The scalars that a value is the sum of, as far as they are known."""
    if isinstance(value, Terms):
        return value.items
    if isinstance(value, Rows):  # its gradient is that of the sum of all elements
        return (summed(value),)
    return (value,) if isinstance(value, Scalar) else ()


def summed(rows: Rows, step: Step | None = None) -> Scalar:
    """The sum over all elements."""
    # What depends on no variable has no gradient: it can only be a weight or a count.
    base = SUM if rows.of_model else WEIGHT
    return Scalar(
        powers=_product(dict(rows.powers), {base: 1}),
        steps=(*rows.steps, *((step,) if step else ())),
        weighted=rows.weighted,
        of_model=rows.of_model,
        sure=rows.sure,
        rank=rows.rank,
        part=rows.part,
    )


def mean(rows: Rows, step: Step) -> Scalar:
    """The mean over all elements."""
    total = replace(summed(rows), powers=_product(dict(rows.powers), {SUM: 1}))
    return total.times(LOCAL, -1, step)  # type: ignore[return-value]


# -- arithmetic


def product(one: Value, other: Value, place: Place) -> Value:
    """One times the other."""
    if isinstance(one, Terms) or isinstance(other, Terms):
        return _over_terms(product, one, other, place)
    if isinstance(one, Const) and isinstance(other, Const):
        return _number(lambda a, b: a * b, one, other)
    if isinstance(one, Const):
        return _times_constant(other, one)
    if isinstance(other, Const):
        return _times_constant(one, other)
    if isinstance(one, Rows) and isinstance(other, Rows):
        return _row_product(one, other)
    return _times(one, other, 1, place)


def quotient(one: Value, other: Value, place: Place) -> Value:
    """One divided by the other."""
    if isinstance(one, Terms):
        return _over_terms(quotient, one, other, place)
    if isinstance(one, Const) and isinstance(other, Const):
        return _number(lambda a, b: a / b, one, other)
    if isinstance(other, Const):
        return _by_constant(one, other, place)
    if isinstance(one, Rows) and isinstance(other, Rows):
        return replace(merged(one, other), weights=False)
    if isinstance(one, Const):
        return _times(Scalar(), other, -1, place)
    return _times(one, other, -1, place)


def total(one: Value, other: Value) -> Value:
    """One plus the other, or minus: signs do not matter here."""
    if isinstance(one, Const) and isinstance(other, Const):
        return _number(lambda a, b: a + b, one, other)
    for value, constant in ((one, other), (other, one)):
        if isinstance(constant, Const) and isinstance(value, (Tensor, Terms)):
            return value
    if isinstance(one, Rows) or isinstance(other, Rows):
        return _row_total(one, other)
    return _scalar_total(one, other)


def merged(one: Rows, other: Rows) -> Rows:
    """Rows that are computed from both."""
    return Rows(
        powers=_product(dict(one.powers), dict(other.powers)),
        steps=one.steps + other.steps,
        weighted=one.weighted or other.weighted,
        of_model=one.of_model or other.of_model,
        sure=one.sure and other.sure,
        rank=one.rank if one.rank == other.rank else None,
        part=one.part or other.part,
        weights=one.weights and other.weights,
        gathered=one.gathered or other.gathered,
    )


def _number(compute: Callable[..., float], one: Const, other: Const) -> Value:
    numbers = (one.value, other.value)
    if not all(isinstance(n, (int, float)) and abs(n) < _LARGE for n in numbers):
        return UNKNOWN  # a text times a number may be larger than memory
    try:
        return Const(compute(*numbers), one.name or other.name)
    except ArithmeticError:
        return UNKNOWN


def _over_terms(
    compute: Callable[[Value, Value, Place], Value],
    one: Value,
    other: Value,
    place: Place,
) -> Value:
    if not isinstance(one, Terms):
        one, other = other, one
    if not isinstance(one, Terms) or isinstance(other, (Terms, Rows)):
        return UNKNOWN
    items = [compute(item, other, place) for item in one.items]
    known = tuple(item for item in items if isinstance(item, Scalar))
    return Terms(known, one.whole) if len(known) == len(items) else UNKNOWN


def _times_constant(value: Value, constant: Const) -> Value:
    if not isinstance(value, Tensor):
        return UNKNOWN
    if value.powers == ((REPLICAS, 1),) and isinstance(constant.value, int):
        return scalar(NOMINAL)  # a batch size per replica, times the replicas
    return value


def _by_constant(value: Value, constant: Const, place: Place) -> Value:
    if not isinstance(value, Tensor):
        return UNKNOWN
    number = constant.value
    if not isinstance(number, (int, float)) or number < 2 or number != int(number):
        return value
    step = Step("divided by constant", place, constant.name or str(number))
    return value.times(CONSTANT, -1, step)


def _row_product(one: Rows, other: Rows) -> Rows:
    weighted = (one.weights != other.weights) or one.weighted or other.weighted
    return replace(merged(one, other), weighted=weighted)


def _row_total(one: Value, other: Value) -> Value:
    if not (isinstance(one, Rows) and isinstance(other, Rows)):
        known = one if isinstance(one, Rows) else other
        assert isinstance(known, Rows)  # noqa: S101  # the caller looked
        return replace(known, sure=False)
    if one.powers != other.powers:
        return UNKNOWN
    return replace(merged(one, other), powers=one.powers, weights=False)


def _scalar_total(one: Value, other: Value) -> Value:
    items = terms_of(one) + terms_of(other)
    if not items:
        return UNKNOWN
    whole = all(
        isinstance(value, Scalar) or (isinstance(value, Terms) and value.whole)
        for value in (one, other)
    )
    counts = {item.powers for item in items}
    if whole and len(counts) == 1 and items[0].numerator is None:
        return items[0]  # a count and a count is a count
    return Terms(items, whole)


_FACTORS = {
    REPLICAS: ("divided by replicas", "multiplied by replicas"),
    LOCAL: ("divided by rows", "multiplied by rows"),
    WEIGHT: ("divided by weight", "multiplied by weight"),
    GLOBAL: ("divided by all rows", "multiplied by all rows"),
    NOMINAL: ("divided by constant", "multiplied by constant"),
}


def _times(one: Value, other: Value, sign: int, place: Place) -> Value:
    """A tensor times a factor, or divided by it."""
    if isinstance(other, Rows) and sign > 0:
        one, other = other, one
    if isinstance(other, Terms) and sign < 0:
        return _ratio(one, other, place)
    if not (isinstance(one, Tensor) and isinstance(other, Scalar)):
        return UNKNOWN
    if other.numerator is not None:
        if sign > 0 and isinstance(one, Scalar) and one.numerator is None:
            return _times(other, one, 1, place)
        return _ratio(one, Terms((other,)), place)
    steps = [
        Step(_FACTORS[base][0 if n * sign < 0 else 1], place)
        for base, n in other.powers
        if base in _FACTORS
    ]
    powers = {base: n * sign for base, n in other.powers}
    return replace(
        one,
        powers=_product(dict(one.powers), powers),
        steps=one.steps + tuple(steps),
        sure=one.sure and other.sure,
    )


def _ratio(one: Value, other: Terms, place: Place) -> Value:
    """A sum over a sum of which some depend on the model: no sum over rows."""
    if not isinstance(one, Scalar) or one.numerator != SUM or not other.whole:
        return UNKNOWN
    if not any(item.numerator == SUM and item.of_model for item in other.items):
        return UNKNOWN
    factors = {base: n for base, n in one.powers if base == REPLICAS}
    powers = _product(factors, {RATIO: 1})
    return replace(one, powers=powers, steps=(*one.steps, Step("ratio", place)))

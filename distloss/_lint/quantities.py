"""Losses as products of what decides their scale: sums, counts, replicas.

The formula of this package (`distloss/_formula`) with names instead of numbers. A
`Scalar` is such a product: `SUM * LOCAL**-1` is the mean over the rows of a replica,
`SUM * GLOBAL**-1` a share of the mean over all. Factors that are the same however a
batch is split, such as 0.5, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from distloss._lint.values import Place, Value

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
        powers = powers_of_product(dict(self.powers), {base: exponent})
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


def powers_of_product(one: Mapping[str, int], other: Mapping[str, int]) -> Powers:
    """The exponents of a product."""
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
        powers=powers_of_product(dict(rows.powers), {base: 1}),
        steps=(*rows.steps, *((step,) if step else ())),
        weighted=rows.weighted,
        of_model=rows.of_model,
        sure=rows.sure,
        rank=rows.rank,
        part=rows.part,
    )


def mean(rows: Rows, step: Step) -> Scalar:
    """The mean over all elements."""
    total = replace(summed(rows), powers=powers_of_product(dict(rows.powers), {SUM: 1}))
    return total.times(LOCAL, -1, step)  # type: ignore[return-value]

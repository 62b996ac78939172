"""Sums, products and quotients of losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from distloss._lint.quantities import (
    CONSTANT,
    GLOBAL,
    LOCAL,
    NOMINAL,
    RATIO,
    REPLICAS,
    SUM,
    WEIGHT,
    Rows,
    Scalar,
    Step,
    Tensor,
    Terms,
    powers_of_product,
    scalar,
    terms_of,
)
from distloss._lint.values import UNKNOWN, Const, Place, Value

_LARGE = 1e15


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
        return _row_product(one, other, place)
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
        powers=powers_of_product(dict(one.powers), dict(other.powers)),
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


def _row_product(one: Rows, other: Rows, place: Place) -> Rows:
    whole = merged(one, other)
    if one.weights == other.weights:
        return whole
    step = Step("weighted", place, "left" if one.weights else "right")
    return replace(whole, weighted=True, steps=(*whole.steps, step))


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
    # A ratio of counts has no powers, and is a factor all the same.
    return replace(
        one,
        powers=powers_of_product(dict(one.powers), powers),
        steps=one.steps + (tuple(steps) if other.powers else other.steps),
        sure=one.sure and other.sure,
    )


def _ratio(one: Value, other: Terms, place: Place) -> Value:
    """A sum over a sum of which some depend on the model: no sum over rows."""
    if not isinstance(one, Scalar) or one.numerator != SUM or not other.whole:
        return UNKNOWN
    if not any(item.numerator == SUM and item.of_model for item in other.items):
        return UNKNOWN
    factors = {base: n for base, n in one.powers if base == REPLICAS}
    powers = powers_of_product(factors, {RATIO: 1})
    return replace(one, powers=powers, steps=(*one.steps, Step("ratio", place)))

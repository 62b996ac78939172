"""Tensor operations: which reduce rows, which keep them apart."""

from __future__ import annotations

import functools
from dataclasses import replace

from distloss._lint.arithmetic import merged, product, quotient, total
from distloss._lint.facts import Gradient
from distloss._lint.libraries.call import (
    Call,
    Handler,
    has_scalars,
    is_true,
    rows_among,
)
from distloss._lint.quantities import (
    LOCAL,
    PENALTY,
    WEIGHT,
    Rows,
    Scalar,
    Shape,
    Step,
    Tensor,
    Terms,
    mean,
    scalar,
    summed,
)
from distloss._lint.values import UNKNOWN, Const, Every, Items, Place, Value


def add_up(value: Value, place: Place) -> Value:
    """The sum of the items of a list."""
    if isinstance(value, Items):
        zero: Value = Const(0)
        return functools.reduce(_plus, value.items, zero)
    item = value.item if isinstance(value, Every) else value
    if isinstance(item, Scalar) and item.numerator == PENALTY:
        return replace(item, steps=(*item.steps, Step("penalty sum", place)))
    if isinstance(item, Gradient):
        return replace(item, accumulated=True)
    return item if isinstance(item, (Tensor, Terms)) else UNKNOWN


def _plus(one: Value, other: Value) -> Value:
    if isinstance(one, Gradient) and isinstance(other, Gradient):
        return replace(one, accumulated=True)
    if isinstance(one, Const):
        return other
    return total(one, other)


def _reduced_axis(call: Call, rows: Rows) -> bool | None:
    """Whether the axis of rows is reduced, or None if that is not known."""
    if not (call.gives("axis", 1) or call.gives("reduction_indices")):
        return True
    axis = call.get("axis", 1)
    if isinstance(axis, Items):
        axes = [one.value if isinstance(one, Const) else None for one in axis.items]
    else:
        axes = [axis.value if isinstance(axis, Const) else None]
    if 0 in axes or (rows.rank is not None and -rows.rank in axes):
        return True
    return None if None in axes else False


def _mean(call: Call) -> Value:
    value = call.first
    if not isinstance(value, Rows):
        return value if isinstance(value, (Scalar, Terms)) else UNKNOWN
    reduced = _reduced_axis(call, value)
    if reduced is None:
        return UNKNOWN
    return mean(value, Step("mean", call.place)) if reduced else _without_axis(value)


def _sum(call: Call) -> Value:
    value = call.first
    if not isinstance(value, Rows):
        return add_up(value, call.place)
    reduced = _reduced_axis(call, value)
    if reduced is None:
        return UNKNOWN
    step = Step("sum", call.place)
    return summed(value, step) if reduced else _without_axis(value)


def _without_axis(rows: Rows) -> Rows:
    return replace(rows, rank=None if rows.rank is None else rows.rank - 1)


def _other_reduction(call: Call) -> Value:
    value = call.first
    if isinstance(value, Rows) and _reduced_axis(call, value) is False:
        return _without_axis(value)
    return UNKNOWN


def _count_nonzero(call: Call) -> Value:
    value = call.first
    return scalar(WEIGHT) if isinstance(value, Rows) else UNKNOWN


def _same(call: Call) -> Value:
    return call.first


def _stopped(call: Call) -> Value:
    value = call.first
    if isinstance(value, Scalar) and value.numerator is None:
        return value
    if isinstance(value, Rows):
        return replace(value, of_model=False)
    return value if isinstance(value, Const) else UNKNOWN


def _shape(call: Call) -> Value:
    return Shape(call.first) if isinstance(call.first, Rows) else UNKNOWN


def _size(call: Call) -> Value:
    value = call.first
    return scalar(LOCAL, part=value.part) if isinstance(value, Rows) else UNKNOWN


def _product(call: Call) -> Value:
    return product(call.get("x", 0), call.get("y", 1), call.place)


def _quotient(call: Call) -> Value:
    return quotient(call.get("x", 0), call.get("y", 1), call.place)


def _guarded_quotient(call: Call) -> Value:
    value = _quotient(call)
    if isinstance(value, Scalar):
        return replace(value, steps=(*value.steps, Step("guarded", call.place)))
    return value


def _total(call: Call) -> Value:
    return total(call.get("x", 0), call.get("y", 1))


def _bound(call: Call) -> Value:
    """`maximum` and `minimum`: a count that is kept from 0 is a count."""
    scalars = [v for v in call.arguments.all if isinstance(v, Scalar)]
    if len(scalars) == 1 and any(isinstance(v, Const) for v in call.arguments.all):
        return scalars[0]
    return elementwise(call)


def elementwise(call: Call) -> Value:
    """What keeps the axis of rows, and knows no other scale than that of its rows."""
    rows = rows_among(call.arguments.all)
    if not rows or has_scalars(call.arguments.all) or any(r.powers for r in rows):
        return UNKNOWN
    return replace(functools.reduce(merged, rows), weights=all(r.weights for r in rows))


def _matmul(call: Call) -> Value:
    value = elementwise(call)
    rows = rows_among(call.arguments.all)
    is_turned = is_true(call.get("transpose_b", 3))
    is_local = all(r.of_model and not r.gathered for r in rows)
    if isinstance(value, Rows) and len(rows) == 2 and is_turned and is_local:
        return replace(value, steps=(*value.steps, Step("similarity", call.place)))
    return value


def _own_index(call: Call) -> Value:
    """`range(rows)` or `eye(rows)`: each row is the label of itself."""
    value = call.first
    if isinstance(value, Scalar) and value.powers == ((LOCAL, 1),):
        return Rows(steps=(Step("own index", call.place),))
    return UNKNOWN


def _scalar_only(call: Call) -> Value:
    """`float` and the like, which take what has no rows."""
    value = call.first
    return value if isinstance(value, (Scalar, Const, Terms)) else UNKNOWN


_BY_NAME: dict[tuple[str, ...], Handler] = {
    ("reduce_mean", "mean", "average"): _mean,
    ("reduce_sum", "sum"): _sum,
    (
        "reduce_max",
        "reduce_min",
        "reduce_any",
        "reduce_all",
        "reduce_prod",
        "reduce_std",
        "reduce_variance",
        "reduce_logsumexp",
        "max",
        "min",
        "any",
        "all",
        "prod",
        "std",
        "var",
        "logsumexp",
        "norm",
        "linalg.norm",
    ): _other_reduction,
    ("count_nonzero",): _count_nonzero,
    ("cast", "identity", "convert_to_tensor", "constant", "abs", "negative"): _same,
    ("debugging.check_numerics", "grad_pass_through", "custom_gradient"): _same,
    ("stop_gradient",): _stopped,
    ("shape",): _shape,
    ("size",): _size,
    ("multiply", "scalar_mul"): _product,
    ("divide", "truediv", "true_divide", "realdiv"): _quotient,
    ("divide_no_nan", "multiply_no_nan"): _guarded_quotient,
    ("add", "subtract"): _total,
    ("add_n",): lambda call: add_up(call.first, call.place),
    ("maximum", "minimum", "clip_by_value"): _bound,
    ("matmul", "linalg.matmul"): _matmul,
    ("range", "arange", "eye"): _own_index,
}

TENSORS: dict[str, Handler] = {
    f"{package}.{name}": handler
    for names, handler in _BY_NAME.items()
    for name in names
    for package in ("tensorflow", "keras.ops", "tf_keras.ops", "tf_keras.backend")
}
TENSORS["tensorflow.multiply_no_nan"] = _product
scalar_only = _scalar_only

"""Losses of TensorFlow and Keras: of rows, or reduced already."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from distloss._lint.arithmetic import merged, product
from distloss._lint.facts import Where
from distloss._lint.libraries.call import Call, rows_among, word
from distloss._lint.libraries.tensors import add_up
from distloss._lint.quantities import (
    CONSTANT,
    GLOBAL,
    LOCAL,
    REPLICAS,
    SUM,
    Rows,
    Scalar,
    Step,
    mean,
    summed,
)
from distloss._lint.values import UNKNOWN, Const, Every, Made, Opaque, Ref, Value

# what the rows of one replica are called
OF_ONE = re.compile(r"per_(replica|worker|gpu|core|device)|local|micro", re.I)
CLASSES = ("keras.losses.", "tf_keras.losses.")
_KEEP_RANK = ("binary_focal", "sigmoid_cross_entropy")


def is_loss(name: str) -> bool:
    """Whether it is the address of a class of losses of Keras."""
    is_class = name.rpartition(".")[2][:1].isupper()
    return is_class and name.startswith(CLASSES) and "Reduction" not in name


def of_rows(call: Call) -> Value:
    """A function that gives each row, or each of its elements, a loss."""
    rows = rows_among(call.arguments.all)
    if not rows:
        return UNKNOWN
    steps = {step.kind for one in rows for step in one.steps}
    whole = functools.reduce(merged, rows)
    ranks = [one.rank for one in rows if one.rank is not None]
    lost = 0 if any(word in call.name for word in _KEEP_RANK) else 1
    whole = replace(whole, rank=max(ranks) - lost if ranks else None, weights=False)
    if {"similarity", "own index"} <= steps:
        step = Step("in-batch negatives", call.place)
        whole = replace(whole, steps=(*whole.steps, step))
    return whole


def of_object(call: Call) -> Value:
    """A loss object of Keras that is called."""
    made = call.receiver
    assert isinstance(made, Made)  # noqa: S101  # the caller looked
    values = of_rows(call)
    if not isinstance(values, Rows):
        return UNKNOWN
    if call.gives("sample_weight", 2):
        values = replace(values, weighted=True)
    return reduced_by_keras(call, made, values)


def reduced_by_keras(call: Call, made: Made, values: Rows) -> Value:
    """What a loss object makes of the losses of rows."""
    position = 1 if made.name.endswith(".LossFunctionWrapper") else None
    reduction = made.arguments.get("reduction", position)
    kind = "sum_over_batch_size" if reduction is None else word(reduction)
    if kind == "none":
        return values
    if kind == "sum":
        return summed(values, Step("sum", call.place))
    if kind not in ("sum_over_batch_size", "mean", "mean_with_sample_weight", "auto"):
        return UNKNOWN
    if made.name.startswith("tf_keras."):  # which raises in a replica function
        return UNKNOWN
    kind = "weighted keras loss" if kind == "mean_with_sample_weight" else "keras loss"
    whole = mean(values, Step(kind, call.place, origin=made.place))
    return divided_by_keras(whole, call.machine.where)


def divided_by_keras(value: Scalar, where: Where) -> Scalar:
    """Keras divides what it reduces by the replicas of the current strategy."""
    if where.engine != "strategy":
        return value
    return value.times(REPLICAS, -1)  # type: ignore[return-value]


def average_loss(call: Call) -> Value:
    """`tf.nn.compute_average_loss`: the sum of all, by the rows of the batch."""
    values = call.get("per_example_loss", 0)
    if not isinstance(values, Rows):
        return UNKNOWN
    if isinstance(call.get("sample_weight", 1), Rows):
        values = replace(values, weighted=True)
    total = summed(values, Step("average loss", call.place))
    if isinstance(call.get("sample_weight", 1), Const):
        return total.times(GLOBAL, -1)  # meant as the batch size, see that rule
    if not call.gives("global_batch_size", 2):
        guessed = total.times(LOCAL, -1, Step("guessed batch size", call.place))
        return guessed.times(REPLICAS, -1)
    return _by_batch_size(total, call.get("global_batch_size", 2), call)


def _by_batch_size(total: Scalar, size: Value, call: Call) -> Value:
    if isinstance(size, Const):
        name = size.name or str(size.value)
        step = Step("divided by constant", call.place, name)
        return total.times(CONSTANT, -1, step)
    name = size.name if isinstance(size, (Opaque, Ref)) else ""
    if OF_ONE.search(name.rpartition(".")[2]):
        step = Step("local batch size", call.place)
        return replace(total.times(LOCAL, -1, step), sure=False)
    if not isinstance(size, Scalar):  # the caller knows the rows of the batch
        return total.times(GLOBAL, -1)
    divided = total
    for base, exponent in size.powers:
        divided = divided.times(base, -exponent, None)  # type: ignore[assignment]
    if size.power(LOCAL):
        step = Step("local batch size", call.place)
        divided = replace(divided, steps=(*divided.steps, step))
    return divided if not size.power(SUM) else UNKNOWN


def scaled_penalty(call: Call) -> Value:
    """`tf.nn.scale_regularization_loss`."""
    value = add_up(call.first, call.place)
    return value.times(REPLICAS, -1) if isinstance(value, Scalar) else UNKNOWN


# -- those of this package


def shared_mean(call: Call) -> Value:
    """`distloss.mean_share(values, weights)`."""
    values, weights = call.get("values", 0), call.get("weights", 1)
    if not isinstance(values, Rows):
        return UNKNOWN
    if isinstance(weights, Rows):
        product_of = product(values, weights, call.place)
        values = product_of if isinstance(product_of, Rows) else values
    share = summed(values, Step("mean share", call.place))
    share = _for_average(replace(share, weighted=False), call.get("replicas"))
    return share.times(GLOBAL, -1)


def shared_loss(call: Call) -> Value:
    """An object of `distloss.DistributedLoss`, called."""
    made = call.receiver
    values = of_rows(call)
    if not (isinstance(made, Made) and isinstance(values, Rows)):
        return UNKNOWN
    reduction = word(made.arguments.get("reduction") or Const(""))
    total = summed(values, Step("distributed loss", call.place))
    total = _for_average(total, made.arguments.get("replicas"))
    if reduction == "none":
        return values
    return total if reduction == "sum" else total.times(GLOBAL, -1)


def shared_penalty(call: Call) -> Value:
    """`distloss.regularization_share(losses)`."""
    losses = call.get("losses", 0)
    item = losses.item if isinstance(losses, Every) else add_up(losses, call.place)
    if not isinstance(item, Scalar):
        return UNKNOWN
    step = Step("penalty share", call.place)
    whole = _for_average(item, call.get("replicas"))
    return whole.times(REPLICAS, -1, step)


def _for_average(total: Scalar, replicas: Value | None) -> Scalar:
    """N times a share, for gradients that Horovod will average."""
    if not isinstance(replicas, Made) or not replicas.name.endswith("HorovodReplicas"):
        return total
    averages = replicas.arguments.get("gradient_op", 1)
    if word(averages or UNKNOWN) not in ("average", "mean"):
        return total
    return total.times(REPLICAS)  # type: ignore[return-value]

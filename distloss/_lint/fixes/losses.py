"""How losses are mended: shares instead of means, one division instead of two."""

from __future__ import annotations

import re
from collections.abc import Iterable

import libcst as cst

from distloss._lint.facts import Facts
from distloss._lint.fixes.edits import Edit, Mend
from distloss._lint.libraries.distribution import PER_REPLICA
from distloss._lint.quantities import (
    CONSTANT,
    REPLICAS,
    SUM,
    WEIGHT,
    Scalar,
    Step,
    terms_of,
)
from distloss._lint.updates import Term
from distloss._lint.values import Made, Mapping, Place, Value

_BY_REPLICAS = ("divided by replicas", "multiplied by replicas")
_REDUCTIONS = ("mean", "sum", "average loss")
_AVERAGE = 'gradient_op="average"'
_VALUES = ("input_tensor", "x", "a", "inputs", "per_example_loss", "losses")


def share(facts: Facts, term: Term, *, certain: bool = True) -> Mend | None:
    """`distloss.mean_share(values)` in the place of a mean and what scales it.

    Args:
      facts: of the program.
      term: the loss.
      certain: whether that is what is meant, where it can be done.

    Returns:
      The mend, or None where the code is not of that form.
    """
    start = term.scalar.last(*_REDUCTIONS)
    if start is None or not _is_mendable(term):
        return None
    values = _reduced(start.place) if _is_plain(start, term) else None
    # compute_average_loss and constants count rows, a share counts elements
    by_rows = start.kind == "average loss" or term.is_by_constant
    if values is None or (certain and by_rows and term.scalar.rank != 1):
        return None
    steps = [
        step for step in term.scalar.steps if step.place.source is start.place.source
    ]
    outer = _widest(start.place, steps)
    code = f"distloss.mean_share({start.place.source.code(values)}{_replicas(term)})"
    rest = _without_replicas(step for step in steps if not _covers(outer, step.place))
    if rest is None or len(steps) != len(term.scalar.steps):
        return None
    sums, known = _sums(facts, start)
    certain = certain and known and not _is_reported(facts)
    return Mend((Edit(outer, code), *rest, *sums), certain)


def _is_plain(start: Step, term: Term) -> bool:
    """Whether the first argument of a reduction says all that matters."""
    if start.kind == "average loss":
        return not term.scalar.weighted
    node = start.place.node  # with an axis it may return several means
    return isinstance(node, cst.Call) and len(node.args) == 1


def _is_mendable(term: Term) -> bool:
    """Whether a share of the mean over the rows of this step is what is meant."""
    if not term.scalar.sure or term.compiled is not None or term.accumulated:
        return False
    if term.scalar.weighted:  # the mean of which would be another one
        return False
    # What is divided by weights, or by a constant besides, is not the mean of rows.
    others = term.scalar.power(WEIGHT) or term.scalar.power(CONSTANT)
    return not (term.is_local_mean and others)


def _sums(facts: Facts, start: Step) -> tuple[list[Edit], bool]:
    """Shares add up: where the losses of replicas were averaged, they are summed.

    Returns:
      The edits, and whether it is known of all averages what they are of.
    """
    edits, known = [], True
    for call in facts.called:
        node, source = call.place.node, call.place.source
        if call.name != "strategy.reduce" or not isinstance(node, cst.Call):
            continue
        how = node.args[0].value
        code = re.sub(r"\bmean\b", "SUM", source.code(how), flags=re.I)
        value = call.arguments.get("value", 1)
        if code == source.code(how):
            continue
        if isinstance(value, Made) and value.name == PER_REPLICA:
            if _comes_from(start, value.state["value"]):
                edits.append(Edit(Place(source, how), code))
        else:
            known = False
    return edits, known


def _comes_from(start: Step, value: Value) -> bool:
    steps = [step for term in terms_of(value) for step in term.steps]
    return any(step.place == start.place for step in steps)


def _is_reported(facts: Facts) -> bool:
    """Whether a metric is given the loss of a replica, which will be a share."""
    values = [v for c in facts.called if c.name == "metric" for v in c.arguments.all]
    logs = [one.value for one in facts.returned if one.method == "train_step"]
    values += [
        v for one in logs if isinstance(one, Mapping) for v in one.items.values()
    ]
    return any(isinstance(v, Scalar) and v.numerator == SUM for v in values)


def weighted_share(term: Term) -> Mend | None:
    """`distloss.mean_share(values, weights)` in the place of a mean of products.

    Not certain: what was divided by rows will be divided by weights.
    """
    start, made = term.scalar.last("mean"), term.scalar.last("weighted")
    if start is None or made is None or not term.scalar.sure:
        return None
    steps = [step for step in term.scalar.steps if step is not made]
    outer, product = _widest(start.place, steps), made.place.node
    rest = _without_replicas(step for step in steps if not _covers(outer, step.place))
    values = _reduced(start.place)
    if rest is None or not isinstance(product, cst.BinaryOperation):
        return None
    sides = (product.left, product.right)
    weights, kept = sides if made.name == "left" else sides[::-1]
    source = start.place.source
    code = f"{source.code(weights)}{_replicas(term)})"
    if values is product:
        whole = f"distloss.mean_share({source.code(kept)}, {code}"
        return Mend((Edit(outer, whole), *rest), certain=False)
    if not (isinstance(weights, cst.Name) and _is_used_once(start.place, values)):
        return None
    assert isinstance(values, cst.Name)  # noqa: S101  # it is used once
    inner = Edit(made.place, source.code(kept))
    whole = f"distloss.mean_share({values.value}, {code}"
    return Mend((inner, Edit(outer, whole), *rest), certain=False)


def _is_used_once(place: Place, node: cst.CSTNode | None) -> bool:
    """Whether a name is read nowhere else in its function."""
    around = place.source.parent(place.node)
    while around is not None and not isinstance(around, cst.FunctionDef):
        around = place.source.parent(around)
    if around is None or not isinstance(node, cst.Name):
        return False
    uses = re.findall(rf"\b{node.value}\b", place.source.code(around))
    return len(uses) == 2  # where it is set, and here


def added_sums(term: Term) -> Mend | None:
    """`tf.add_n(model.losses)` in the place of a share of what is a sum of rows."""
    step = term.scalar.last("penalty share")
    values = None if step is None else _reduced(step.place)
    if step is None or values is None or not term.scalar.sure:
        return None
    source = step.place.source
    if not re.search(r"^import tensorflow as tf$", source.text, re.M):
        return None
    return Mend((Edit(step.place, f"tf.add_n({source.code(values)})"),))


def _replicas(term: Term) -> str:
    """The argument that says who shares the batch, where it is not a strategy."""
    if term.engine != "horovod":
        return ""
    averages = term.replicas != term.scalar.power(REPLICAS)
    return f", replicas=distloss.HorovodReplicas({_AVERAGE if averages else ''})"


def _reduced(place: Place) -> cst.BaseExpression | None:
    """What a call reduces, if it is the first argument."""
    node = place.node
    if not isinstance(node, cst.Call) or not node.args or node.args[0].star:
        return None
    keyword = node.args[0].keyword
    if keyword is not None and keyword.value not in _VALUES:
        return None
    return node.args[0].value


def _widest(place: Place, steps: list[Step]) -> Place:
    """The expression around a reduction of which all is known."""
    known = {step.place.node for step in steps}
    node = place.node
    around = _expression_around(place)
    while around is not None and around in known:
        node = around
        around = _expression_around(Place(place.source, node))
    return Place(place.source, node)


def _expression_around(place: Place) -> cst.CSTNode | None:
    found = place.source.parent(place.node)
    return place.source.parent(found) if isinstance(found, cst.Arg) else found


def _covers(outer: Place, inner: Place) -> bool:
    node: cst.CSTNode | None = inner.node
    while node is not None and node is not outer.node:
        node = inner.source.parent(node)
    return node is outer.node


def _without_replicas(steps: Iterable[Step]) -> list[Edit] | None:
    """Edits that take factors of the number of replicas out; None: it is others."""
    edits = []
    for step in steps:
        if step.kind not in _BY_REPLICAS:
            return None
        edit = _without_factor(step)
        if edit is None:
            return None
        edits.append(edit)
    return edits


def _without_factor(step: Step) -> Edit | None:
    node = step.place.node
    if not isinstance(node, cst.BinaryOperation):
        return None
    if step.kind == "multiplied by replicas" and _is_count(node.left):
        kept = node.right
    elif _is_count(node.right):
        kept = node.left
    else:
        return None
    return Edit(step.place, step.place.source.code(kept))


def _is_count(node: cst.BaseExpression) -> bool:
    """Whether it is the number of replicas and nothing else: a name, or its call."""
    is_call = isinstance(node, cst.Call) and not node.args
    name = node.func if isinstance(node, cst.Call) and is_call else node
    return isinstance(name, (cst.Name, cst.Attribute))


def undivided(term: Term, *, certain: bool = True) -> Mend | None:
    """The loss without its division by the number of replicas."""
    step = term.scalar.last("divided by replicas")
    edits = None if step is None else _without_replicas([step])
    return Mend(tuple(edits), certain) if edits else None


# -- denominators


def by_all(term: Term) -> Mend | None:
    """Weights of all replicas in the place of those of one, and no other division."""
    if term.engine != "strategy":
        return None
    step = term.scalar.last("divided by weight")
    others = [one for one in term.scalar.steps if one.kind in _BY_REPLICAS]
    rest = _without_replicas(others)
    denominator = None if step is None else _denominator(step.place.node)
    if step is None or rest is None or denominator is None:
        return None
    if any(_covers(Place(step.place.source, denominator), one.place) for one in others):
        return None
    code = step.place.source.code(denominator)
    whole = f"distloss.StrategyReplicas().sum({code})"
    if any(_covers(edit.place, step.place) for edit in rest):
        return _nested(step, rest, denominator, whole)
    return Mend((Edit(Place(step.place.source, denominator), whole), *rest))


def _nested(
    step: Step, rest: list[Edit], denominator: cst.CSTNode, whole: str
) -> Mend | None:
    """The same where both are in one expression: `total / weight / replicas`."""
    if len(rest) != 1:
        return None
    source, outer = step.place.source, rest[0].place.node
    if not isinstance(outer, cst.BinaryOperation):
        return None
    inner = outer.left.deep_replace(denominator, cst.parse_expression(whole))
    if not isinstance(inner, cst.BaseExpression):
        return None
    return Mend((Edit(rest[0].place, source.tree.code_for_node(inner)),))


def _denominator(node: cst.CSTNode) -> cst.BaseExpression | None:
    """What divides; of `tf.maximum(count, 1)` the count."""
    if isinstance(node, cst.BinaryOperation):
        found: cst.BaseExpression = node.right
    elif isinstance(node, cst.Call) and len(node.args) == 2:
        found = node.args[1].value
    else:
        return None
    if isinstance(found, cst.Call) and _is_bound(found):
        return found.args[0].value
    return found if not isinstance(found, cst.BinaryOperation) else None


def _is_bound(node: cst.Call) -> bool:
    """Whether it is `tf.maximum(count, 1)`."""
    name = node.func.attr.value if isinstance(node.func, cst.Attribute) else ""
    if name != "maximum" or len(node.args) != 2:
        return False
    return isinstance(node.args[1].value, (cst.Integer, cst.Float))


# -- terms that are the same on every replica, and loss objects


def shared_penalty(term: Term) -> Mend | None:
    """`distloss.regularization_share(model.losses)` in the place of their sum."""
    step = term.scalar.last("penalty sum")
    values = None if step is None else _reduced(step.place)
    if step is None or values is None:
        return None
    losses = step.place.source.code(values)
    code = f"distloss.regularization_share({losses}{_replicas(term)})"
    return Mend((Edit(step.place, code),), certain=term.sure)


def distributed_loss(facts: Facts, term: Term) -> Mend | None:
    """`distloss.DistributedLoss(loss)` around a loss object where it is made."""
    step = term.scalar.last("keras loss", "weighted keras loss")
    others = [one for one in term.scalar.steps if one is not step]
    rest = _without_replicas(others)
    if step is None or step.origin is None or rest is None:
        return None
    if term.engine != "strategy":
        return None
    code = step.origin.source.code(step.origin.node)
    edit = Edit(step.origin, f"distloss.DistributedLoss({code})")
    return Mend((edit, *rest), certain=_is_called_once(facts, step))


def _is_called_once(facts: Facts, step: Step) -> bool:
    """Whether no other place would see the loss change."""
    places = {c.place for c in facts.called if c.name == "loss" and c.of == step.origin}
    return len(places) == 1

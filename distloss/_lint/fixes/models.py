"""How models and optimizers are mended: `prepare` after `compile`, or a wrapper."""

from __future__ import annotations

import libcst as cst

from distloss._lint.facts import Called, Compiled, Facts
from distloss._lint.fixes.edits import Edit, Mend
from distloss._lint.quantities import Rows, Scalar
from distloss._lint.updates import Term
from distloss._lint.values import Function, Instance, Place, Value

_HOROVOD = ", replicas=distloss.HorovodReplicas()"
_OWN_STEPS = ("train_step", "compute_loss")


def prepared(model: Compiled, *edits: Edit) -> Mend | None:
    """`distloss.prepare(model)` after `compile`.

    Args:
      model: that was compiled.
      edits: that belong to it.

    Returns:
      The mend, or None where `prepare` may refuse the model, or is not wanted.
    """
    if _has_own_step(model.model) or not model.losses:
        return None
    edit = _prepare(model)
    return None if edit is None else Mend((*edits, edit))


def _has_own_step(model: Value) -> bool:
    if not isinstance(model, Instance):
        return False
    return any(isinstance(model.kind.member(name), Function) for name in _OWN_STEPS)


def _prepare(model: Compiled) -> Edit | None:
    call, source = model.place.node, model.place.source
    statement = source.parent(call)
    line = None if statement is None else source.parent(statement)
    if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
        return None
    if not isinstance(statement, cst.Expr):
        return None
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return None
    replicas = _HOROVOD if model.where.engine == "horovod" else ""
    name = source.code(call.func.value)
    code = f"distloss.prepare({name}{replicas})"
    return Edit(Place(source, line), code, adds=True)


def of_optimizer(facts: Facts, made: Called) -> Mend | None:
    """`prepare` where the optimizer was compiled, else a wrapper where it is made."""
    models = [
        m for m in facts.compiled if m.arguments.get("optimizer", 0) is made.result
    ]
    if models:
        known = all(isinstance(loss, (Rows, Scalar)) for loss in models[0].losses)
        return prepared(models[0]) if known else None
    if any(m.arguments.get("optimizer", 0) is None for m in facts.compiled):
        return None
    code = made.place.source.code(made.place.node)
    return Mend((Edit(made.place, f"distloss.DistributedOptimizer({code})"),))


def of_rows(facts: Facts, term: Term) -> Mend | None:
    """`prepare` for a compiled loss of rows."""
    model = next((m for m in facts.compiled if m.place == term.compiled), None)
    return None if model is None else prepared(model)


def of_scalar_loss(facts: Facts, term: Term) -> Mend | None:
    """The losses of elements instead of their mean, and `prepare`."""
    model = next((m for m in facts.compiled if m.place == term.compiled), None)
    step = term.scalar.last("mean")
    if model is None or step is None or len(term.scalar.steps) != 1:
        return None
    call = step.place.node
    if not isinstance(call, cst.Call) or len(call.args) != 1 or not term.scalar.sure:
        return None
    values = step.place.source.code(call.args[0].value)
    return prepared(model, Edit(step.place, values))


def without_factor(facts: Facts, term: Term, mend: Mend | None) -> Mend | None:
    """`prepare`, and a loss function without its division by the replicas."""
    model = next((m for m in facts.compiled if m.place == term.compiled), None)
    if model is None or mend is None:
        return None
    return prepared(model, *mend.edits)


def of_horovod(facts: Facts, call: Called) -> Mend | None:
    """An optimizer that reduces in the place of `hvd.DistributedOptimizer`."""
    node, source = call.place.node, call.place.source
    if not isinstance(node, cst.Call) or len(node.args) != 1:
        return None  # what else it is told has no counterpart that is certain
    inner = source.code(node.args[0].value)
    models = [
        m for m in facts.compiled if m.arguments.get("optimizer", 0) is call.result
    ]
    if models:
        return prepared(models[0], Edit(call.place, inner))
    code = f"distloss.DistributedOptimizer({inner}{_HOROVOD})"
    return Mend((Edit(call.place, code),))


def synchronized(call: Called) -> Mend | None:
    """`BatchNormalization(synchronized=True)`, which costs a collective a layer."""
    node, source = call.place.node, call.place.source
    if not isinstance(node, cst.Call) or "synchronized" in call.arguments.keywords:
        return None
    arguments = [source.code(one).rstrip(", ") for one in node.args]
    name = source.code(node.func)
    code = f"{name}({', '.join([*arguments, 'synchronized=True'])})"
    return Mend((Edit(call.place, code),), certain=False)

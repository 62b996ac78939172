"""`not-reduced`: nobody adds gradients up over replicas."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from distloss._lint.facts import Facts
from distloss._lint.fixes import models
from distloss._lint.libraries.optimizers import KERAS_3, is_of_keras_3
from distloss._lint.rules.made import horovod_optimizers, optimizer_of
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.values import UNKNOWN, Function, Opaque, Place

_SUMS = "_all_reduce_sum_gradients"
_REDUCTIONS = ("hvd.allreduce", "hvd.keras.allreduce", "hvd.grouped_allreduce")
# where else an optimizer of one's own may add gradients up
_PLACES = ("apply", "apply_gradients", "_backend_apply_gradients")
_BY_HAND = re.compile(r"\.(all_reduce|sum_gradients|allreduce|grouped_allreduce)\(")


def _check(seen: Seen) -> Iterator[Hit]:
    for call in horovod_optimizers(seen.facts):
        if is_of_keras_3(optimizer_of(call) or UNKNOWN):
            yield Hit(
                call.place,
                "error",
                "Horovod reduces nothing in an optimizer of Keras 3, without a word: "
                "each process trains a model of its own.",
                "distloss.prepare(model, replicas=distloss.HorovodReplicas()) after "
                "compile, or hvd.DistributedGradientTape in a loop of your own.",
                models.of_horovod(seen.facts, call),
            )
    yield from _passed_by(seen)
    yield from _overridden(seen)


def _passed_by(seen: Seen) -> Iterator[Hit]:
    if _may_reduce_weights(seen.facts):
        return
    for update in seen.facts.applied:
        is_plain = not update.sums and not update.gradient.reduced
        if not is_plain or not update.where.engine or not update.where.replica:
            continue
        if update.where.engine == "horovod" and not is_of_keras_3(update.optimizer):
            continue
        yield Hit(
            update.place,
            "warning",
            "These gradients are those of one replica, and nobody adds them up.",
            "hvd.DistributedGradientTape, or distloss.DistributedOptimizer(optimizer, "
            "replicas=distloss.HorovodReplicas())."
            if update.where.engine == "horovod"
            else "Let the optimizer add up, or all_reduce the gradients before.",
        )


def _may_reduce_weights(facts: Facts) -> bool:
    """Whether something is reduced of which nothing is known, such as weights.

    Processes that average their weights after a step need not reduce gradients.
    """
    reductions = [call for call in facts.called if call.name in _REDUCTIONS]
    reduced = [call.arguments.get("tensor", 0) for call in reductions]
    return any(value is UNKNOWN or isinstance(value, Opaque) for value in reduced)


def _overridden(seen: Seen) -> Iterator[Hit]:
    """Optimizers whose sum over replicas returns what it was given."""
    for kind in seen.facts.made:
        method = kind.members.get(_SUMS)
        if not isinstance(method, Function) or not kind.inherits(KERAS_3):
            continue
        # An optimizer that is given sums is right to return them.
        sums_by_hand = _BY_HAND.search(kind.source.text) is not None
        if sums_by_hand or any(name in kind.members for name in _PLACES):
            continue
        if _returns_its_argument(method.node):
            yield Hit(
                Place(kind.source, method.node),
                "error",
                "This optimizer does not add gradients up over replicas: each trains a "
                "copy of its own.",
                "Leave the method as it is in Keras.",
            )


def _returns_its_argument(node: cst.FunctionDef | cst.Lambda) -> bool:
    names = {one.name.value for one in node.params.params[1:]}
    last = node.body.body[-1] if isinstance(node.body, cst.IndentedBlock) else None
    line = last.body[-1] if isinstance(last, cst.SimpleStatementLine) else None
    value = line.value if isinstance(line, cst.Return) else None
    return isinstance(value, cst.Name) and value.value in names


RULE = Rule("not-reduced", _check)

"""`accumulation-not-averaged`: gradients of micro-batches are added up, not divided."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.quantities import CONSTANT, Scalar
from distloss._lint.rules.made import horovod_optimizers
from distloss._lint.rules.rule import Hit, Rule, Seen, severity
from distloss._lint.values import Const

MEANS = ("mean share", "mean", "keras loss", "distributed loss")


def _check(seen: Seen) -> Iterator[Hit]:
    for term in seen.terms:
        step = term.scalar.last(*MEANS)
        divided = term.scalar.power(CONSTANT) < 0 or _is_scaled(term.scalar)
        is_of_part = term.accumulated and term.scalar.part
        if is_of_part and step is not None and not divided:
            yield Hit(
                step.place,
                severity(term),
                "The gradients of several micro-batches with this loss are added up "
                "and not divided: too large by their number.",
                "Divide by the rows of the whole step, or use "
                "distloss.prepare(model, microbatches=K).",
            )
    yield from _by_horovod(seen)


def _is_scaled(loss: Scalar) -> bool:
    """Whether the mean of a micro-batch is scaled by what it holds of the step."""
    last = loss.last(*MEANS, "divided by all rows")
    return last is not None and last.kind not in MEANS


def _by_horovod(seen: Seen) -> Iterator[Hit]:
    for call in horovod_optimizers(seen.facts):
        passes = call.arguments.keywords.get("backward_passes_per_step")
        averages = call.arguments.keywords.get("average_aggregated_gradients")
        is_one = isinstance(passes, Const) and passes.value == 1
        if passes is None or is_one or averages not in (None, Const(False)):
            continue
        yield Hit(
            call.arguments.places.get("backward_passes_per_step", call.place),
            "warning",
            "Horovod adds up the gradients of these passes and does not divide: too "
            "large by their number.",
            "average_aggregated_gradients=True, or "
            "distloss.prepare(model, replicas=distloss.HorovodReplicas(), "
            "microbatches=K).",
        )


RULE = Rule("accumulation-not-averaged", _check)

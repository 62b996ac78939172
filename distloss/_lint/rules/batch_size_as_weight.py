"""`batch-size-as-weight`: `compute_average_loss(losses, batch_size)`."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.fixes import losses
from distloss._lint.fixes.edits import Mend
from distloss._lint.quantities import Scalar
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.values import Const, Place


def _check(seen: Seen) -> Iterator[Hit]:
    for call in seen.facts.called:
        if call.name != "tensorflow.nn.compute_average_loss":
            continue
        weight = call.arguments.get("sample_weight", 1)
        is_number = isinstance(weight, Const) and isinstance(weight.value, int)
        if is_number or (isinstance(weight, Scalar) and weight.numerator is None):
            yield Hit(
                call.place,
                "error",
                "The second parameter is sample_weight: the losses are multiplied by "
                "the batch size.",
                "Give it by its name, global_batch_size=..., or use "
                "distloss.mean_share(values).",
                _mend(seen, call.place),
            )


def _mend(seen: Seen, place: Place) -> Mend | None:
    for term in seen.terms:
        step = term.scalar.last("average loss")
        if step is not None and step.place == place:
            return losses.share(seen.facts, term)
    return None


RULE = Rule("batch-size-as-weight", _check)

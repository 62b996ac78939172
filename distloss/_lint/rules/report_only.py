"""`report-only`: a step returns its replica's share as the loss of the batch."""

from __future__ import annotations

from collections.abc import Iterator

from distloss._lint.quantities import GLOBAL, REPLICAS, Scalar
from distloss._lint.rules.rule import Hit, Rule, Seen
from distloss._lint.updates import is_prepared
from distloss._lint.values import Mapping


def _check(seen: Seen) -> Iterator[Hit]:
    for one in seen.facts.returned:
        if one.method != "train_step" or not isinstance(one.value, Mapping):
            continue
        loss = one.value.items.get("loss")
        if is_prepared(one.model) or not isinstance(loss, Scalar):
            continue
        step = loss.last("mean share", "distributed loss")
        is_share = loss.power(GLOBAL) == -1 and loss.power(REPLICAS) == 0
        if step is not None and is_share:
            yield Hit(
                step.place,
                "warning",
                "The step returns its share as the loss: fit shows the mean of shares, "
                "1/N of the loss. The gradient is right.",
                "Return N times the value of a distloss.DistributedLoss, or metrics.",
            )


RULE = Rule("report-only", _check)

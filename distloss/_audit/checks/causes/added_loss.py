"""A sum over rows that a layer adds to the loss, and that is divided by N."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.causes.uniform_factor import (
    DIVIDED_TWICE,
    is_of_layers,
    named_by_scale,
    of_scale,
)
from distloss._audit.checks.check import Check
from distloss._audit.checks.comparison import Comparison, Deviation

ADDED_LOSS_DIVIDED = Cause(
    "added-loss-divided",
    "A layer adds a sum over its rows to the loss, and the step divides it by the "
    "number of replicas: N replicas add up to 1/N of the sum over the batch.",
    Remedy(
        "Only what is the same on every replica may be divided by N. By hand: add the "
        "sum as it is, loss + tf.add_n(sums), and divide regularisers only.",
        "distloss.mean_share(values) of the losses of rows, in a step of your own",
        compiled=True,
    ),
)


def _explain_term(comparison: Comparison, deviation: Deviation) -> bool:
    if comparison.facts.is_keras or not is_of_layers(comparison, deviation):
        return False
    if of_scale(comparison, deviation) is not DIVIDED_TWICE:
        return False
    if comparison.made_of(deviation.probe) != "sum":
        return False
    return named_by_scale(comparison, deviation, ADDED_LOSS_DIVIDED)


CHECK = Check("added losses", (ADDED_LOSS_DIVIDED,), explain_term=_explain_term)

"""A term of the weights alone, which each replica counts."""

from __future__ import annotations

import dataclasses

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.causes.uniform_factor import (
    SUM_OF_MEANS,
    is_of_layers,
    named_by_scale,
    of_scale,
)
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import norm
from distloss._audit.checks.comparison import Comparison, Deviation

NOT_SCALED = Cause(
    "regularization-not-scaled",
    "A term that depends on the weights only, such as a regulariser, is counted once "
    "by each replica: N times in all.",
    Remedy(
        "By hand: tf.nn.scale_regularization_loss(...) for such terms. With distloss: "
        "distloss.regularization_share(model.losses)."
    ),
)


def _explain_term(comparison: Comparison, deviation: Deviation) -> bool:
    """A term N times too large that is known to be of the weights alone."""
    if of_scale(comparison, deviation) is not SUM_OF_MEANS:
        return False
    if deviation.term != "regularizers" and not (
        is_of_layers(comparison, deviation)
        and comparison.made_of(deviation.probe) == "weights"
    ):
        return False
    return named_by_scale(comparison, deviation, NOT_SCALED)


def _explain(comparison: Comparison, deviation: Deviation) -> bool:
    """A difference that is the same whatever the rows."""
    facts, n = comparison.facts, comparison.replicas
    if facts.rows < 2 * n or facts.calls > 1:
        return False
    apart = []
    for part in (0, 1):
        rows = probes.even(facts.rows, n, part=part)
        other = dataclasses.replace(deviation.probe, micro=rows.micro)
        seen, one = comparison.many_and_one(other)
        apart.append(np.asarray(seen.gradient - one.gradient, np.float64))
    size = max(norm(apart[0]), norm(apart[1]))
    left = norm(apart[0] - apart[1])
    if not size or not left <= 100 * facts.rounding * size:  # nor if it is not finite
        return False
    evidence = (
        "the difference from one replica is the same for other rows, so it comes from "
        "the weights alone"
    )
    comparison.find(NOT_SCALED, deviation.difference, evidence, term=deviation.term)
    return True


CHECK = Check(
    "weights alone", (NOT_SCALED,), explain_term=_explain_term, explain=_explain
)

"""Mistakes that one device makes as well: the child finds them in the traced step."""

from __future__ import annotations

from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check

ELEMENTS_BY_ROWS = Cause(
    "elements-divided-by-rows",
    "A loss of pixels or tokens is divided by the number of rows only: it grows with "
    "the size of an image or the length of a text, on one device, too.",
    Remedy(
        "Take the mean over pixels or tokens first: tf.reduce_mean(loss, axis=...), or "
        "distloss.mean_share(values), which counts elements."
    ),
    is_certain=False,
)

WEIGHTS_BY_ROWS = Cause(
    "weights-divided-by-rows",
    "The mean of weighted losses is no weighted mean: it is divided by the number of "
    "rows, not by the sum of the weights.",
    Remedy(
        "tf.reduce_sum(loss * weight) / sum of weights over all replicas, or "
        "distloss.mean_share(values, weight)."
    ),
)

BATCH_SIZE_AS_WEIGHT = Cause(
    "batch-size-as-weight",
    "The batch size went to compute_average_loss in the place of sample_weight: the "
    "gradient is multiplied by it.",
    Remedy("tf.nn.compute_average_loss(loss, global_batch_size=...), by its name."),
)

CAUSES = (ELEMENTS_BY_ROWS, WEIGHTS_BY_ROWS, BATCH_SIZE_AS_WEIGHT)


def _seen_in_the_trace(baseline: Baseline) -> None:
    named = {cause.slug: cause for cause in CAUSES}
    for slug, evidence in baseline.facts.lints.items():
        baseline.find(named[slug], 1.0, evidence)


CHECK = Check("traced step", CAUSES, on_one_device=_seen_in_the_trace)

"""BatchNormalization, which normalises by the rows of one replica."""

from __future__ import annotations

import dataclasses

from distloss._audit.checks.cause import Cause, Remedy
from distloss._audit.checks.check import Check
from distloss._audit.checks.comparison import Comparison

BATCH_STATISTICS = Cause(
    "batch-statistics",
    "BatchNormalization normalises by the rows of its replica, so that the model "
    "itself is another one on N replicas; with it frozen, the difference is gone.",
    Remedy(
        "keras.layers.BatchNormalization(synchronized=True), or another normalization, "
        "or accept it: the scale of the loss is right."
    ),
    may_be_chance=True,
    made_with="layer",
)


def _live(comparison: Comparison, even_agrees: bool) -> None:
    if not comparison.facts.batch_norm:
        return
    if not even_agrees:
        comparison.skip("BatchNormalization", "the gradient is wrong with it frozen")
        return
    probe = dataclasses.replace(
        comparison.even(), name="BatchNormalization live", batch_norm="live"
    )
    _, difference = comparison.measure(probe)
    if not difference.agrees:
        comparison.find(
            BATCH_STATISTICS,
            difference,
            f"even split: rho = {difference.residual:.2g} as it is, none with "
            "BatchNormalization frozen",
        )


CHECK = Check("batch norm", (BATCH_STATISTICS,), on_replicas=_live)

"""Everything that the audit looks for, in the order in which it looks."""

from __future__ import annotations

from distloss._audit.checks.cause import Cause, Model
from distloss._audit.checks.causes import (
    accumulation,
    added_loss,
    batch_statistics,
    clipping,
    empty_replica,
    no_update,
    nominal_batch_size,
    nondeterministic,
    not_cleared,
    not_reduced,
    overflow,
    parts,
    regularization,
    report_only,
    sharding,
    sparse_slices,
    traced_calls,
    uneven_split,
    unexplained,
    uniform_factor,
    variables_apart,
)
from distloss._audit.checks.check import Check

# In each phase the first that names a cause ends the search for it.
CHECKS: tuple[Check, ...] = (
    sharding.CHECK,
    no_update.CHECK,
    nondeterministic.CHECK,
    accumulation.CHECK,
    not_cleared.CHECK,
    not_reduced.CHECK,
    uniform_factor.CHECK,
    added_loss.CHECK,
    regularization.CHECK,
    parts.CHECK,
    variables_apart.CHECK,
    unexplained.CHECK,
    uneven_split.CHECK,
    empty_replica.CHECK,
    clipping.CHECK,
    sparse_slices.CHECK,
    overflow.CHECK,
    report_only.CHECK,
    batch_statistics.CHECK,
    traced_calls.CHECK,
    nominal_batch_size.CHECK,
)

# By their names in reports.
CAUSES: dict[str, Cause] = {c.slug: c for check in CHECKS for c in check.causes}


def remedy_for(remedy: str, model: Model) -> str:
    """The remedy of a finding, as advice that this model can take."""
    for cause in CAUSES.values():
        for known in cause.remedies():
            if str(known) == remedy:
                return known.of(model)
    return remedy

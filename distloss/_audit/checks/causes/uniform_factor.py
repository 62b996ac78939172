"""A gradient or update that is N, 1/N or N*N times too large, all variables alike."""

from __future__ import annotations

import dataclasses

from distloss._audit.checks.cause import Cause, Remedy, divided_by_all
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import Difference, norm
from distloss._audit.checks.comparison import Comparison, Deviation

SUM_OF_MEANS = Cause(
    "sum-of-means",
    "The gradient is N times too large: each replica computes a mean and the optimizer "
    "adds them up; nobody divides by the number of replicas.",
    divided_by_all("A loss that returns a scalar is not divided by Keras 3. "),
)

UPDATE_SCALED = Cause(
    "update-scaled",
    "The gradients of the replicas add up to that of the batch, but the update is N "
    "times as long: they are summed twice, or a learning rate is multiplied by N.",
    Remedy(
        "Sum over replicas once, and leave the learning rate as it is: the batch is "
        "the same on any number of them."
    ),
    made_with="optimizer",
)

DIVIDED_TWICE = Cause(
    "divided-twice",
    "The gradient is too small by the number of replicas: it is divided by N once by "
    "you and once by the framework.",
    divided_by_all(
        "Take one of the two divisions out: Keras losses divide by N by themselves "
        "under a strategy. "
    ),
)

N_SQUARED = Cause(
    "scaled-n-squared",
    "The gradient is N*N times too large: it is multiplied by N, and summed over "
    "replicas besides.",
    divided_by_all("Take the factor N out. "),
)


def of_scale(comparison: Comparison, deviation: Deviation) -> Cause | None:
    """The cause of a factor that is the same for all variables."""
    n, difference = comparison.replicas, deviation.difference
    if not difference.uniform:
        return None
    factors = {n: SUM_OF_MEANS, 1 / n: DIVIDED_TWICE, 1 / n**2: DIVIDED_TWICE}
    factors[n**2] = N_SQUARED
    is_near = comparison.tolerance.is_near
    return next((c for f, c in factors.items() if is_near(difference.scale, f)), None)


def named_by_scale(
    comparison: Comparison, deviation: Deviation, cause: Cause, of: str = ""
) -> bool:
    """Notes `cause`, of which the scale is the evidence; `of` says of what."""
    difference = deviation.difference
    evidence = (
        f"{deviation.probe.name}: alpha = {difference.scale:.4g}, rho = "
        f"{difference.residual:.1g} on {comparison.replicas} replicas, the same for "
        f"all variables{of}"
    )
    comparison.find(cause, difference, evidence, term=deviation.term)
    return True


def _comes_afterwards(comparison: Comparison, deviation: Deviation) -> bool:
    """Whether what tapes give adds up to the right gradient, as far as is known."""
    facts, probe = comparison.facts, deviation.probe
    if probe.alone or facts.calls > 1:
        return False
    tape = dataclasses.replace(probe, observe="tape")
    many, one = comparison.many_and_one(tape)
    if one.moves_weights:
        return False  # only the first of these tapes is recorded
    return bool(norm(one.gradient)) and comparison.tolerance.compare(many, one).agrees


def is_of_layers(comparison: Comparison, deviation: Deviation) -> bool:
    """Whether it is a term that layers add, whose makings tell its cause."""
    return deviation.term.startswith("added") and comparison.facts.calls == 1


def _of_optimizers(comparison: Comparison, deviation: Deviation) -> bool:
    """Names factors of what one of several optimizers updates.

    The next of them gets gradients at weights that the first moved otherwise, so that
    only those of the first differ by a factor.
    """
    if len(comparison.facts.optimizers) < 2 or _comes_afterwards(comparison, deviation):
        return False
    groups = [
        dataclasses.replace(deviation, difference=_of_group(comparison, deviation, own))
        for own in comparison.facts.optimizers
    ]
    causes = [(group, of_scale(comparison, group)) for group in groups]
    of = " of one of the optimizers"
    named = [
        named_by_scale(comparison, group, cause, of) for group, cause in causes if cause
    ]
    return any(named)


def _of_group(
    comparison: Comparison, deviation: Deviation, own: tuple[int, ...]
) -> Difference:
    """The difference in some variables, whether or not others differ by a factor."""
    difference, limit = deviation.difference, 10 * comparison.facts.rounding
    pairs = [difference.variables[i] for i in own if i in difference.variables]
    scales = [scale for scale, _ in pairs] or [1.0]
    residual = max((rho for _, rho in pairs), default=0.0)
    apart = max(scales) - min(scales)
    return dataclasses.replace(
        difference,
        scale=scales[0],
        residual=residual,
        uniform=len(pairs) > 0 and max(residual, apart / abs(scales[0])) <= limit,
        wrong=own,
    )


def _explain(comparison: Comparison, deviation: Deviation) -> bool:
    cause = of_scale(comparison, deviation)
    if cause is None:
        return _of_optimizers(comparison, deviation)
    if is_of_layers(comparison, deviation):
        # Where this cannot be told, the factor of such a term has no certain name.
        comparison.made_of(deviation.probe)
    if cause is SUM_OF_MEANS and _comes_afterwards(comparison, deviation):
        cause = UPDATE_SCALED
    return named_by_scale(comparison, deviation, cause)


CHECK = Check(
    "scale",
    (SUM_OF_MEANS, UPDATE_SCALED, DIVIDED_TWICE, N_SQUARED),
    explain_at_once=_explain,
    explain=_explain,
)

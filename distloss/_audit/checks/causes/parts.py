"""What N replicas add up, in terms of what the rows of each of them give alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from distloss._audit.checks.cause import Cause, Remedy, divided_by_all
from distloss._audit.checks.causes.accumulation import counts_wrongly
from distloss._audit.checks.causes.not_reduced import NOT_REDUCED
from distloss._audit.checks.causes.unexplained import UNEXPLAINED
from distloss._audit.checks.causes.uniform_factor import DIVIDED_TWICE, SUM_OF_MEANS
from distloss._audit.checks.check import Check
from distloss._audit.checks.compare import NotRun, Vector, norm
from distloss._audit.checks.comparison import Comparison, Deviation
from distloss._audit.checks.probes import UNEVEN, Probe

MEAN_OF_MEANS = Cause(
    "mean-of-means",
    "Each replica divides by what it holds itself (rows, tokens, weights), and the "
    "means are averaged: where replicas hold unequal amounts, some rows count for more "
    "than others.",
    divided_by_all(),
    cases={
        "uneven": (
            "Each replica divides by the rows that it holds itself, and the means are "
            "averaged. It shows only when a batch splits unevenly: then the rows of a "
            "replica that holds fewer count for more. On an even split the gradient is "
            "right.",
            divided_by_all(),
        )
    },
)

NOT_DECOMPOSABLE = Cause(
    "not-decomposable",
    "The loss of the batch is no weighted sum of losses of rows, so no factor makes "
    "the parts add up: it compares rows, is a ratio of sums, or adds up means with "
    "different denominators.",
    Remedy(
        "Take means each with its own denominator (distloss.mean_share for each). Sum "
        "over replicas what a ratio consists of before it is taken, or gather the "
        "other rows; mind that gradients are summed once more."
    ),
    cases={
        "of a mean": (
            "The loss of the batch is a function of its mean (a root, a logarithm, an "
            "exponential), so that each replica takes it of a mean of its own: what "
            "its rows count depends on the weights of the model.",
            Remedy(
                "Minimize the mean itself, or take its function of the mean over all "
                "replicas: sum over replicas what the mean consists of, outside of the "
                "tape, for gradients are summed once more."
            ),
        )
    },
    likely=("of a mean",),
    may_be_chance=True,
    is_certain=False,
)

NOT_LINEAR = Cause(
    "not-linear-in-gradient",
    "The loss is a sum over rows, but what the step makes of its gradient is not "
    "linear in it (clipping by hand, a normalized gradient, a step uphill as in "
    "sharpness-aware minimization), and replicas do it each to its own gradient.",
    Remedy(
        "Sum the gradients over replicas first, and do it to the sum: "
        "distloss.StrategyReplicas().sum_gradients(gradients). The optimizer sums "
        "again: give it N-th parts."
    ),
    may_be_chance=True,
    is_certain=False,
)


def explain(comparison: Comparison, deviation: Deviation) -> bool:
    """Names the cause by what each part counts, in the whole and on N replicas."""
    if comparison.facts.calls > 1 or counts_wrongly(comparison.baseline):
        return False
    probe, n = deviation.probe, comparison.replicas
    parts = [p for p in comparison.parts(probe) if np.isfinite(p).all() and norm(p)]
    if len(parts) < 2:
        return False
    seen, wanted = comparison.many_and_one(probe)
    right, left_of_right = comparison.tolerance.fit(wanted.gradient, parts)
    given, left_of_given = comparison.tolerance.fit(seen.gradient, parts)
    limit = 30 * comparison.facts.rounding
    if left_of_right > limit:
        if left_of_given > limit and n > 2 and left_of_right < 10 * limit:
            return False
        return _of_no_sum(comparison, deviation, parts, left_of_right)
    if left_of_given > limit:
        return _of_variables(comparison, deviation, parts)
    # A residual makes up to a hundred times as much of factors, see `_are_apart`.
    limit = max(3 * comparison.facts.rounding, 100 * left_of_right)
    if not _count_alike_elsewhere(comparison, probe, (parts, right), limit):
        return _of_a_function(comparison, deviation, right)
    return _of_a_sum(comparison, deviation, given, right)


def _count_alike_elsewhere(
    comparison: Comparison, probe: Probe, count: tuple[Any, Vector], limit: float
) -> bool:
    """Whether parts count the same with other weights, too, as far as can be seen.

    What a replica holds (rows, words, weights of rows) does not depend on the model.

    Args:
      comparison: of N replicas with one.
      probe: that differs.
      count: the gradients of the parts, and what each counts in the whole.
      limit: up to which residual, relative to the largest of them, it is the same.
    """
    parts, right = count
    if len(right) < comparison.replicas or not _are_apart(parts):
        return True
    largest = [norm(parts[0][place]) for place in comparison.facts.slices()]
    index = int(np.argmax(largest))
    moved = dataclasses.replace(probe, name="other weights", shifted=index)
    try:
        whole = comparison.look(1, moved.on_one()).gradient
        given = [f * p for f, p in zip(right, comparison.parts(moved), strict=True)]
    except NotRun:  # a step that trains has no other weights
        return True
    size = max(map(norm, (whole, *given)))
    left = norm(sum(given) - whole)
    return not left > limit * size


def _are_apart(parts: list[Vector]) -> bool:
    """Whether gradients point into different directions, so that factors are exact."""
    if not all(map(norm, parts)) or len(parts[0]) < len(parts):
        return False
    directions = np.stack([part / norm(part) for part in parts], axis=1)
    return bool(np.linalg.svd(directions)[1][-1] >= 0.01)


def _of_a_function(comparison: Comparison, deviation: Deviation, right: Vector) -> bool:
    shown = f"{deviation.probe.name}: in the whole, the parts count {_shown(right)}"
    if _is_treated(comparison, deviation, right, shown):
        return True
    shown += ", and with other weights of the model something else"
    difference, term = deviation.difference, deviation.term
    comparison.find(NOT_DECOMPOSABLE, difference, shown, term=term, case="of a mean")
    return True


def _of_variables(
    comparison: Comparison, deviation: Deviation, parts: list[Vector]
) -> bool:
    """Names means that are averaged where only one term of the loss is seen.

    A loss of two terms may have one with a denominator of all replicas and one with
    that of each. In what both act on no factors fit; in a head of one of them they do.
    """
    seen, wanted = comparison.many_and_one(deviation.probe)
    averaged = []
    for place, name in zip(
        comparison.facts.slices(), comparison.facts.names, strict=True
    ):
        own = [np.asarray(part[place], np.float64) for part in parts]
        given = _certain(comparison, seen.gradient[place], own)
        right = _certain(comparison, wanted.gradient[place], own)
        if given is None or right is None:
            continue
        is_mean = np.allclose(given * comparison.replicas, 1, atol=1e-3)
        is_mean &= abs(right.sum() - 1) < 0.01  # each holds a share of the whole
        if is_mean and not np.allclose(given, right, rtol=0.02):
            averaged.append((name, right))
    if not averaged:
        return False
    name, right = averaged[0]
    evidence = (
        f"{deviation.probe.name}: in {name} the means of the replicas count "
        f"1/{comparison.replicas} each; in the mean of the whole batch they count "
        f"{_shown(right)}"
    )
    comparison.find(MEAN_OF_MEANS, deviation.difference, evidence, term=deviation.term)
    return True


def _certain(comparison: Comparison, goal: Vector, parts: list[Vector]) -> Any:
    """The factors by which parts add up to `goal`, if no others do; or None."""
    if not norm(goal) or not _are_apart(parts):
        return None
    factors, left = comparison.tolerance.fit(goal, parts)
    return factors if left <= 30 * comparison.facts.rounding else None


def _adds_up_before_others(
    comparison: Comparison, deviation: Deviation, parts: list[Vector]
) -> bool:
    """Whether what one of several optimizers updates is wrong, and is a sum over rows.

    Then that of the next is none because the first moved the weights that it sees.
    """
    facts, places = comparison.facts, comparison.facts.slices()
    whole = comparison.look(1, deviation.probe.on_one()).gradient
    for own in facts.optimizers if len(facts.optimizers) > 1 else ():
        index = np.r_[tuple(places[i] for i in own)]
        if not set(own) & set(deviation.difference.wrong) or len(index) <= len(parts):
            continue
        _, left = comparison.tolerance.fit(whole[index], [p[index] for p in parts])
        if left <= 30 * facts.rounding:
            return True
    return False


def _of_no_sum(
    comparison: Comparison, deviation: Deviation, parts: list[Vector], left: float
) -> bool:
    if _adds_up_before_others(comparison, deviation, parts):
        return False
    shown = (
        f"{deviation.probe.name}: no weights make the gradients of the parts add up to "
        f"that of the whole: {left:.2g} of it is left over"
    )
    if not _is_treated(comparison, deviation, None, shown):
        comparison.find(
            NOT_DECOMPOSABLE, deviation.difference, shown, term=deviation.term
        )
    return True


def _of_a_sum(
    comparison: Comparison, deviation: Deviation, given: Vector, right: Vector
) -> bool:
    name, n = deviation.probe.name, comparison.replicas
    shown = f"{name}: in the whole, the parts count {_shown(right)}"
    if _is_treated(comparison, deviation, right, shown):
        return True
    if _is_lost(comparison, deviation, given, right):
        return True
    mean = given.mean()
    names = {1 / n: MEAN_OF_MEANS, 1.0: SUM_OF_MEANS, 1 / n**2: DIVIDED_TWICE}
    cause = next((c for f, c in names.items() if abs(mean / f - 1) < 0.02), None)
    if cause is None or any(abs(f / mean - 1) >= 0.02 for f in given):
        return _of_groups(comparison, deviation, given, right)
    evidence = (
        f"{name}: the means of the replicas count {_shown(given)}; in the mean of the "
        f"whole batch they count {_shown(right)}"
    )
    case = ""
    if cause is MEAN_OF_MEANS and name == UNEVEN:
        case = "uneven"
        evidence += f"; {_is_split(comparison.facts.rows, n)}"
    comparison.find(
        cause, deviation.difference, evidence, term=deviation.term, case=case
    )
    return True


def _is_lost(
    comparison: Comparison, deviation: Deviation, given: Vector, right: Vector
) -> bool:
    """Whether the rows of some replicas count by nothing of what they should."""
    if not right.all():
        return False
    times = given / right
    if np.abs(times).min() >= 0.02 * np.abs(times).max():
        return False
    evidence = (
        f"{deviation.probe.name}: the rows of {comparison.replicas} replicas count "
        f"{_shown(times)} times what they should"
    )
    difference, term = deviation.difference, deviation.term
    comparison.find(NOT_REDUCED, difference, evidence, term=term, case="lost")
    return True


def _is_treated(
    comparison: Comparison, deviation: Deviation, right: Any, shown: str
) -> bool:
    """Whether it is not the loss, but what is done to its gradient.

    Then the gradients of the parts that a tape gives add up to that of the whole, and
    by other factors (`right`, None where there are none) than what is made of them.
    """
    if deviation.probe.alone:
        return False
    tape = dataclasses.replace(deviation.probe, observe="tape")
    whole, parts = comparison.look(1, tape.on_one()), comparison.parts(tape)
    if not norm(whole.gradient) or not all(map(norm, parts)):
        return False
    factors, left = comparison.tolerance.fit(whole.gradient, parts)
    alike = right is not None and np.allclose(factors, right, rtol=0.02)
    if alike or not left <= 30 * comparison.facts.rounding:
        return False
    n = comparison.replicas
    summed = comparison.tolerance.compare(comparison.look(n, tape), whole)
    taken = (
        f"gradients of the tape add up, those of {n} replicas to {summed.scale:.4g} "
        "times that of the whole; what the step makes of them does not"
    )
    is_right = summed.agrees or summed.uniform  # uniform: N is divided by elsewhere
    cause = NOT_LINEAR if is_right else UNEXPLAINED
    comparison.find(cause, deviation.difference, shown, taken, term=deviation.term)
    return True


def _of_groups(
    comparison: Comparison, deviation: Deviation, given: Vector, right: Vector
) -> bool:
    """Names means of groups of neighbours that are averaged, such as those of hosts."""
    n = comparison.replicas
    sizes = [s for s in range(2, n) if n % s == 0 and len(right) == n]
    for size in sizes:
        groups = right.reshape(-1, size)
        means = (groups / groups.sum(axis=1, keepdims=True)).ravel() * size / n
        if np.allclose(given, means, rtol=0.02):
            evidence = (
                f"{deviation.probe.name}: the means of groups of {size} replicas count "
                f"{size / n:.3g} each: those of replicas count {_shown(given)}, and in "
                f"the mean of the whole batch {_shown(right)}"
            )
            comparison.find(
                MEAN_OF_MEANS, deviation.difference, evidence, term=deviation.term
            )
            return True
    return False


def _is_split(rows: int, replicas: int) -> str:
    """Whether a split of this batch is uneven at all."""
    if rows % replicas:
        return f"this batch of {rows} rows does not split evenly over {replicas}"
    return (
        f"this batch of {rows} rows does split evenly over {replicas}: it shows in "
        "others, such as a short last one"
    )


def _shown(factors: Any) -> str:
    return ", ".join(f"{factor:.3g}" for factor in factors)


CHECK = Check("parts", (MEAN_OF_MEANS, NOT_DECOMPOSABLE, NOT_LINEAR), explain=explain)

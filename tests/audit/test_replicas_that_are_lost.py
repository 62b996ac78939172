"""Updates that lose replicas, or a term of which averages means of replicas.

As in `test_diagnosis`: gradients made in NumPy, and the cause by which they were made.
"""

import dataclasses

import numpy as np
import pytest

from distloss._audit.checks import diagnosis
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.compare import Observation, StepFacts

ROWS, SIZE = 23, 6
GRADIENTS = np.random.default_rng(3).normal(size=[ROWS, SIZE])
GRADIENTS *= np.linspace(0.5, 2, ROWS)[:, np.newaxis]
FACTS = StepFacts(names=("a",), sizes=(SIZE,), eps=2.0**-23, rows=ROWS)


def sums(probe):
    """The gradient of the sum of each replica's rows."""
    return [GRADIENTS[start:stop].sum(0) for start, stop in probe.micro[0]]


def rows_in(probe):
    return sum(stop - start for start, stop in probe.micro[0])


def found(look, replicas, facts=FACTS):
    baseline = Baseline(look, facts, 0.0, None)
    findings = diagnosis.diagnosis(replicas, baseline, patient=lambda: True).findings
    return [finding for finding in findings if finding.cause != "empty-replica"]


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_the_update_of_one_replica_is_not_reduced(which, factor, replicas):
    def look(count, probe):
        one = sums(probe)[which] * (factor if count > 1 else 1)
        return Observation(one / rows_in(probe), loss=(1.0,))

    (finding,) = found(look, replicas)
    assert finding.cause == "not-reduced"
    assert "of some replicas only" in finding.explanation


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_replica_that_counts_for_little_is_not_lost(replicas):
    def look(_count, probe):
        parts = sums(probe)
        factors = np.full(len(parts), 0.1)
        factors[0] = 1
        whole = sum(f * part for f, part in zip(factors, parts, strict=True))
        return Observation(whole / rows_in(probe), loss=(1.0,))

    assert "not-reduced" not in [finding.cause for finding in found(look, replicas)]


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_replicas_that_clip_each_in_its_own_way_drift_apart(spread, replicas):
    facts = dataclasses.replace(FACTS, clip=True, clips_by_hand=True)

    def look(count, probe):
        whole = sum(sums(probe)) / rows_in(probe)
        if not probe.clip:
            return Observation(whole, loss=(1.0,))
        clipped = whole / np.linalg.norm(whole) / probe.clip
        # what is seen of the gradient is that of the first replica, which clips
        return Observation(clipped, loss=(1.0,), spread=spread * (count > 1))

    findings = found(look, replicas, facts)
    assert [finding.cause for finding in findings] == ["not-reduced"] * bool(spread)
    assert all("clip each in its own way" in f.explanation for f in findings)


TWO = StepFacts(names=("shared", "head"), sizes=(SIZE, SIZE), eps=2.0**-23, rows=ROWS)
OF_HEAD = np.random.default_rng(5).normal(size=[ROWS, SIZE])
TOKENS = np.linspace(1, 9, ROWS).round()


def two_terms(count, probe, *, is_right):
    """The first term counts tokens of all; the second, of a head, those of each."""
    total = np.zeros(2 * SIZE)
    parts = [np.arange(start, stop) for start, stop in probe.micro[0]]
    tokens = TOKENS[np.concatenate(parts)].sum()
    for rows in parts:
        both = np.concatenate([GRADIENTS[rows], OF_HEAD[rows]], axis=1)
        second = np.concatenate([0.5 * OF_HEAD[rows], OF_HEAD[rows]], axis=1)
        both[:, SIZE:] = 0
        own = tokens if is_right else max(TOKENS[rows].sum() * count, 1)
        weight = TOKENS[rows, np.newaxis]
        total += (weight * both).sum(0) / tokens + (weight * second).sum(0) / own
    return Observation(total, loss=(1.0,))


@pytest.mark.parametrize("replicas", [2, 4])
def test_means_that_are_averaged_show_in_the_head_of_their_term(replicas):
    def look(count, probe):
        return two_terms(count, probe, is_right=False)

    (finding,) = found(look, replicas, TWO)
    assert finding.cause == "mean-of-means"
    assert "in head the means of the replicas" in finding.evidence[0]


@pytest.mark.parametrize("replicas", [2, 4])
def test_two_terms_with_denominators_of_all_agree(replicas):
    def look(count, probe):
        return two_terms(count, probe, is_right=True)

    assert not found(look, replicas, TWO)


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_head_too_small_to_tell_names_nothing(replicas):
    sizes = (2 * SIZE - 1, 1)

    def look(count, probe):
        return two_terms(count, probe, is_right=False)

    small = dataclasses.replace(TWO, sizes=sizes)
    assert {f.cause for f in found(look, replicas, small)} == {"unexplained"}


def means_of_groups(size):
    def look(count, probe):
        parts = [np.arange(start, stop) for start, stop in probe.micro[0]]
        group = min(size, count)
        total = np.zeros(SIZE)
        for first in range(0, count, group):
            rows = np.concatenate(parts[first : first + group])
            weight = TOKENS[rows]
            total += weight @ GRADIENTS[rows] / max(weight.sum(), 1)
        return Observation(total * group / count, loss=(1.0,))

    return look


def test_means_of_pairs_are_averaged_on_four_replicas_and_not_on_two():
    assert not found(means_of_groups(2), 2)
    (finding,) = found(means_of_groups(2), 4)
    assert finding.cause == "mean-of-means"
    assert "groups of 2 replicas count 0.5 each" in finding.evidence[0]


def test_one_odd_factor_for_all_variables_is_no_scale_of_some():
    facts = StepFacts(names=("a", "b"), sizes=(4, 2), eps=2.0**-23, rows=ROWS)

    def look(count, probe):
        factor = 1.37 if count > 1 else 1.0
        return Observation(factor * sum(sums(probe)) / rows_in(probe), loss=(1.0,))

    assert {finding.cause for finding in found(look, 4, facts)} == {"unexplained"}

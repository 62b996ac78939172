"""Of several optimizers the first moves weights that the gradients of the next see.

In NumPy: the first one updates the first variable, the second one the others.
"""

import dataclasses

import numpy as np
import pytest
from test_diagnosis import FACTS, GRADIENTS, ROWS, SIZE, diagnosed
from test_functions_of_means import parts_of

from distloss._audit.checks.compare import Observation

BOTH = dataclasses.replace(FACTS, optimizers=((0, 1), (2,)))
FIRST = np.arange(SIZE) < sum(FACTS.sizes[:2])
OTHERS = np.random.default_rng(8).normal(size=[ROWS, SIZE])


def world(first):
    """`first(parts, n)` to gradients; those of the second bend with what it moves."""

    def look(count, probe):
        if probe.infinite_row is not None:
            return Observation(np.zeros(SIZE), moved=False)
        parts = parts_of(probe)
        moves = first(parts, count)
        rows = np.concatenate(parts)
        bent = GRADIENTS[rows].mean(0) * (1 + 0.3 * np.tanh(np.sum(moves[FIRST])))
        return Observation(np.where(FIRST, moves, bent), loss=(1.0,))

    return look


def global_mean(parts, _n):
    return GRADIENTS[np.concatenate(parts)].mean(0)


def sum_of_means(parts, _n):
    return sum(GRADIENTS[rows].mean(0) for rows in parts)


def one_term_of_two_is_summed(parts, _n):
    others = sum(OTHERS[rows].mean(0) for rows in parts)
    return global_mean(parts, _n) + others


def causes(first, replicas, facts=BOTH):
    found = diagnosed(world(first), replicas, facts).findings
    return {finding.cause for finding in found}


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_a_factor_of_the_first_is_named(replicas):
    assert causes(sum_of_means, replicas) == {"sum-of-means"}
    (found,) = diagnosed(world(sum_of_means), replicas, BOTH).findings
    assert found.variables == ("a", "b")
    assert "of one of the optimizers" in found.evidence[0]


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_what_bends_after_a_wrong_sum_is_not_blamed_on_the_loss(replicas):
    assert "not-decomposable" not in causes(one_term_of_two_is_summed, replicas)


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_right_step_agrees(replicas):
    assert causes(global_mean, replicas) == set()


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_loss_of_the_second_that_is_no_sum_is_blamed(replicas):
    def look(count, probe):
        parts = parts_of(probe)
        ratios = [
            GRADIENTS[rows].sum(0) / np.abs(GRADIENTS[rows]).sum(0) for rows in parts
        ]
        second = sum(ratios) / count
        gradient = np.where(FIRST, global_mean(parts, count), second)
        return Observation(gradient, moved=probe.infinite_row is None)

    found = {finding.cause for finding in diagnosed(look, replicas, BOTH).findings}
    assert "not-decomposable" in found

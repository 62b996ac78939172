"""A function of the mean of a batch is no mean, though its parts add up by factors.

In NumPy: each row has a loss and a gradient, and others where weights are shifted.
"""

import dataclasses

import numpy as np
import pytest
import test_diagnosis
from test_diagnosis import FACTS, ROWS, SIZE, WEIGHTS
from test_reported_shapes import rows_of

from distloss._audit.checks.compare import NotRun, Observation

random = np.random.default_rng(5)
# By whether weights are shifted.
LOSSES = [random.uniform(0.5, 2.5, ROWS) for _ in range(2)]
GRADIENTS = [random.normal(size=[ROWS, SIZE]) for _ in range(2)]

# The slope of a function of the mean.
SLOPES = {
    "root": lambda mean: 0.5 / np.sqrt(mean),
    "logarithm": lambda mean: 1 / mean,
    "exponential": np.exp,
    "square": lambda mean: 2 * mean,
}


def diagnosed(look, replicas, facts=FACTS):
    return test_diagnosis.diagnosed(look, replicas, facts).findings


def parts_of(probe):
    return [rows for rows in rows_of(probe) if len(rows)]


def averaged(gradient_of):
    """N replicas that average what `gradient_of` makes of their own rows."""

    def look(count, probe):
        if probe.infinite_row is not None:
            return Observation(np.zeros(SIZE), moved=False)
        shifted = int(probe.shifted is not None)
        found = [gradient_of(rows, shifted) for rows in parts_of(probe)]
        return Observation(sum(found) / count, loss=(1.0,))

    return look


def function_of_mean(slope):
    def gradient_of(rows, shifted):
        mean = LOSSES[shifted][rows].mean()
        return slope(mean) * GRADIENTS[shifted][rows].mean(0)

    return gradient_of


def weighted_mean(rows, shifted):
    weights = WEIGHTS[rows, None]
    return (weights * GRADIENTS[shifted][rows]).sum(0) / weights.sum()


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("name", SLOPES)
def test_a_function_of_a_mean_is_not_called_a_mean(name, replicas):
    found = diagnosed(averaged(function_of_mean(SLOPES[name])), replicas)
    of_even = [f for f in found if f.cause != "empty-replica"]
    assert {f.cause for f in of_even} == {"not-decomposable"}
    assert of_even[0].certainty == "likely"
    assert "function of its mean" in of_even[0].explanation


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_a_weighted_mean_is_called_one(replicas):
    found = diagnosed(averaged(weighted_mean), replicas)
    assert {f.cause for f in found} <= {"mean-of-means", "empty-replica"}
    assert found[0].cause == "mean-of-means"
    assert found[0].certainty == "certain"


def test_a_mean_is_called_one_where_nobody_can_shift_weights():
    look = averaged(weighted_mean)

    def of_a_step_that_trains(count, probe):
        if probe.shifted is not None:
            raise NotRun("a step that trains")
        return look(count, probe)

    assert diagnosed(of_a_step_that_trains, 2)[0].cause == "mean-of-means"


def test_parts_that_point_into_one_direction_say_nothing_of_factors():
    """Of one variable with one number, any factors fit."""
    facts = dataclasses.replace(FACTS, names=("a",), sizes=(1,))

    def one_number(count, probe):
        seen = averaged(weighted_mean)(count, probe)
        return dataclasses.replace(seen, gradient=seen.gradient[:1])

    causes = {f.cause for f in diagnosed(one_number, 2, facts)}
    assert "not-decomposable" not in causes


def test_what_is_treated_in_one_variable_is_not_called_a_mean():
    """Shares of a whole add up to one; these, of the first variable, do not."""
    first = np.arange(SIZE) < FACTS.sizes[0]

    def look(count, probe):
        parts = parts_of(probe)
        everyone = sum(map(len, parts))
        gradient = sum(GRADIENTS[0][rows].sum(0) for rows in parts) / everyone
        gradient[first] *= 1e-3
        if everyone > ROWS // 2 and count == 1:
            gradient[first] *= 0.9
        gradient[~first] += count - 1  # so that no factors fit in the others
        return Observation(gradient, moved=probe.infinite_row is None)

    assert "mean-of-means" not in {f.cause for f in diagnosed(look, 2)}

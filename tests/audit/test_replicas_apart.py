"""Replicas whose weights differ are told from those that round in another way.

An update by hand may be small beside the weights: what replicas make of it differs by
little more than their rounding, and still by much of the update.
"""

import dataclasses

import numpy as np
import pytest
from test_reported_shapes import answers

from distloss._audit.answers import observation
from distloss._audit.checks import probes
from distloss._audit.child.observed import Change

WEIGHTS = np.random.default_rng(2).uniform(-1, 1, [40, 30]).astype("float32")
GRADIENT = np.random.default_rng(3).normal(size=WEIGHTS.shape).astype("float32")


class Nothing:
    """A recorder that saw no update rule."""

    def seen(self, _index):
        return False


def spread_of(*updates):
    """Of replicas whose weights move by these, each in one change or more."""
    after = []
    for update in updates:
        moved = WEIGHTS
        for one in update:
            moved = moved - np.float32(one)
        after.append(moved)
    change = Change([[WEIGHTS] * len(after)], [after])
    return change.observed(Nothing(), "gradient")["spread"]


@pytest.mark.parametrize("size", [1e-6, 1e-5, 1e-3])
def test_rates_that_differ_are_seen_however_small_the_update(size):
    update = size * GRADIENT
    assert spread_of([update], [1.5 * update]) > 0.05


@pytest.mark.parametrize("size", [1e-7, 1e-6, 1e-5, 1e-3])
def test_rounding_of_one_update_or_of_two_is_no_difference(size):
    update = size * GRADIENT
    near = update * np.float32(1 + 2.0**-22)
    decay = 0.01 * WEIGHTS
    assert spread_of([update], [near]) <= 2.0**-20
    assert spread_of([decay, update], [decay, near]) <= 2.0**-20
    assert spread_of([update, decay], [near, decay]) <= 2.0**-20


def test_processes_are_compared_as_exactly(tmp_path):
    probe = dataclasses.replace(probes.even(22, 2), observe="weights")
    update = np.full(4, 1e-6)
    alike, other = (
        observation(answers(tmp_path, [update, factor * update]), probe)
        for factor in (1.0, 1.5)
    )
    assert alike.spread == 0
    assert other.spread > 0.2

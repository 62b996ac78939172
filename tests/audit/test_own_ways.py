"""Steps in ways of their own are called what they are.

Builds are in `builds_own_ways`; some are audited, or all with DISTLOSS_ZOO=all.
"""

import pathlib

import builds_own_ways as builds
import pytest
from chosen import some

import distloss

BUILDS = pathlib.Path(builds.__file__)
WRONG = {
    "root_of_each_mean": "not-decomposable",
    "logarithm_of_each_mean": "not-decomposable",
    "rounded_before_a_normalization": "no-update",
    "exponential_of_each_mean": "not-decomposable",
    "projected_by_each": "not-linear-in-gradient",
    "rounded_before_an_activation": "no-update",
    "rounded_before_a_counted_mean": "no-update",
    "rounded_after_an_activation": "no-update",
}
RIGHT = (
    "stopped_before_a_normalization",
    "stopped_before_a_counted_mean",
    "teacher_tells_and_masks",
    "root_of_the_mean",
    "projected_after_the_sum",
)


@pytest.mark.parametrize("name", some(list(WRONG), 3))
def test_what_is_wrong_is_named(name, forked):
    report = distloss.audit(f"{BUILDS}:{name}", replicas=(1, 2, 3))
    assert {finding.cause for finding in report.findings} == {WRONG[name]}


@pytest.mark.parametrize("name", some(list(RIGHT), 3))
def test_what_is_right_agrees(name, forked):
    assert distloss.audit(f"{BUILDS}:{name}", replicas=(1, 3)).findings == ()

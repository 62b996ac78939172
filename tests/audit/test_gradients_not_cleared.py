"""Gradients that are never cleared are named; what keeps some on purpose is not.

Builds are in `builds_not_cleared`; some are audited, or all with DISTLOSS_ZOO=all.
"""

import pathlib

import builds_not_cleared as builds
import numpy as np
import pytest
from chosen import some
from test_diagnosis import GRADIENTS, SIZE, one_device

import distloss
from distloss._audit.checks.compare import Observation

BUILDS = pathlib.Path(builds.__file__)
NAME = "gradients-not-cleared"
WRONG = {
    "never_cleared": {NAME},
    "window_never_cleared": {NAME},
    "keras_step_never_clears": {NAME, "report-only"},  # it shows what one replica has
    "never_cleared_with_adam": {NAME},
}
RIGHT = (
    "momentum_by_hand",
    "kept_and_cleared",
    "window_is_cleared",
    "average_of_all_steps",
    "gradient_warms_up",
    "only_counted",
    "last_gradient_is_kept",
    "momentum",
    "adam",
    "nesterov_by_hand",
    "moving_average",
)


def audited(name):
    return distloss.audit(f"{BUILDS}:{name}", replicas=(1, 2))


@pytest.mark.parametrize("name", some(list(WRONG), 2))
def test_what_is_never_cleared_is_named(name, forked):
    report = audited(name)
    assert {f.cause for f in report.findings} == WRONG[name]
    (finding,) = [f for f in report.findings if f.cause == NAME]
    assert finding.replicas == 1
    assert "1 times the gradient of the first batch and 2 times" in finding.evidence[0]


@pytest.mark.parametrize("name", some(list(RIGHT), 4))
def test_what_is_right_agrees(name, forked):
    assert audited(name).findings == ()


# -- in NumPy: what each update makes of those before it


def named(step):
    """What is found where `step(kept, gradient, n)` gives what is kept, and applied."""

    def look(_count, probe):
        order = np.arange(len(GRADIENTS)) if probe.order is None else probe.order
        kept = applied = np.zeros(SIZE)
        for n, bounds in enumerate(probe.micro, 1):
            rows = np.asarray(order)[slice(*bounds[0])]
            kept, applied = step(kept, GRADIENTS[rows].mean(0), n)
        return Observation(applied)

    at_first, _, _ = one_device(look)
    return [finding.cause for finding in at_first]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.96, 1.0])
def test_only_what_is_kept_whole_is_named(decay):
    def step(kept, gradient, _n):
        kept = decay * kept + gradient
        return kept, kept

    assert named(step) == [NAME] * (decay == 1)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_what_grows_with_the_steps_is_not_named(power):
    assert named(lambda kept, gradient, n: (kept, gradient * n**power)) == []


def test_the_sum_of_the_last_two_is_not_named():
    assert named(lambda kept, gradient, _: (gradient, gradient + kept)) == []

"""A wrong accumulation on one device explains what replicas show, on any split."""

import numpy as np
import pytest

from distloss._audit.checks import diagnosis
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.causes.accumulation import MEAN_OF_MEANS, NOT_AVERAGED
from distloss._audit.checks.compare import Observation, StepFacts

FACTS = StepFacts(names=("w",), sizes=(3,), eps=2.0**-23, rows=24, tapes=2)
RIGHT, WRONG = np.array([1.0, 2.0, 3.0]), np.array([1.1, 1.9, 3.0])
OFF = np.array([0.0, 0.1, 0.3])


def off_where(shows):
    def look(count, probe):
        first = probe.micro[0][0][0]  # other rows are off by something else
        off = count > 1 and shows(probe.rows()[0])
        gradient = WRONG * (1 + OFF * first) if off else RIGHT
        return Observation(gradient, loss=(1.0,), moved=probe.infinite_row is None)

    return look


def found(shows, *causes):
    baseline = Baseline(off_where(shows), FACTS, 0.0, None)
    for cause in causes:
        baseline.find(cause, 2.0, "seen on one device")
    told = diagnosis.diagnosis(3, baseline, patient=lambda: True)
    return [f.cause for f in told.findings], [s.check for s in told.skipped]


SPLITS = {
    "empty shard": lambda rows: 0 in rows,
    "uneven split": lambda rows: len({*rows}) > 1 and 0 not in rows,
    "even split": lambda rows: len({*rows}) == 1,
}


@pytest.mark.parametrize("cause", [NOT_AVERAGED, MEAN_OF_MEANS])
@pytest.mark.parametrize("split", SPLITS)
def test_it_is_not_found_a_second_time_as_unexplained(split, cause):
    causes, skipped = found(SPLITS[split], cause)
    assert causes == []
    assert f"{split} on 3 replicas" in skipped


@pytest.mark.parametrize("split", SPLITS)
def test_without_it_the_difference_is_found(split):
    causes, _ = found(SPLITS[split])
    assert causes == ["unexplained"]

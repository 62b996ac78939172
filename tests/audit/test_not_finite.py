"""A gradient that is not finite for some rows is no evidence of anything else.

As in `test_diagnosis`: gradients made in NumPy.
"""

import numpy as np
import pytest

from distloss._audit.checks import diagnosis
from distloss._audit.checks.baseline import Baseline
from distloss._audit.checks.compare import Observation, StepFacts

ROWS, SIZE = 29, 6
GRADIENTS = np.random.default_rng(6).normal(size=[ROWS, SIZE])
LABELS = np.linspace(9, 1, ROWS).round() * (np.arange(ROWS) < ROWS - 9)
FACTS = StepFacts(names=("a",), sizes=(SIZE,), eps=2.0**-23, rows=ROWS)


def means_over_labels(count, probe, repeats=0):
    """Each replica divides by its own labels, of which the last rows have none."""
    total = np.zeros(SIZE)
    for start, stop in probe.micro[0]:
        labels = LABELS[start:stop]
        with np.errstate(invalid="ignore"):
            total += labels @ GRADIENTS[start:stop] / labels.sum() / count
    return Observation(total, loss=(1.0,), repeats=repeats)


def causes(look, replicas):
    baseline = Baseline(look, FACTS, 0.0, None)
    found = diagnosis.diagnosis(replicas, baseline, patient=lambda: True).findings
    return {finding.cause for finding in found} - {"empty-replica"}


def test_two_replicas_of_which_each_has_labels_average_means():
    assert causes(means_over_labels, 2) == {"mean-of-means"}


@pytest.mark.parametrize("repeats", [0, 3])
def test_a_replica_without_labels_is_named_by_nothing_that_was_not_seen(repeats):
    def look(count, probe):
        return means_over_labels(count, probe, repeats)

    assert causes(look, 4) == {"unexplained"}

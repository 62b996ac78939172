"""The audit takes whatever `fit` takes, and says so in a sentence where it cannot."""

import pathlib

import builds_any_batch

import distloss
from distloss import _launch

BUILDS = pathlib.Path(builds_any_batch.__file__)


def test_an_empty_shard_meets_the_switches_that_training_has(forked):
    """Without oneDNN, convolutions take no rows; ordinary training has it."""
    assert not any("ONEDNN" in name for name in _launch._SETTINGS)
    report = distloss.audit(f"{BUILDS}:convolution", replicas=(1, 2))
    found = {f.cause: f for f in report.findings}["empty-replica"]
    assert "InvalidArgumentError" in found.evidence[0]
    assert "With one row on the last replica it runs." in found.evidence[0]
    assert "distloss.prepare(model)" in found.remedy
    assert not report.skipped

"""A step of one's own: the audit finds it wrong, and right once it is prepared."""

import own_models
import pytest

import distloss

ROWS = 21


def batch_of(kind):
    return tuple(array[:ROWS] for array in kind.data)


def plain():
    return own_models.compiled(own_models.Autoencoder), batch_of(own_models.Autoencoder)


def prepared():
    model, batch = plain()
    return distloss.prepare(model), batch


def two_optimizers_prepared():
    model = own_models.compiled(own_models.Adversarial, own_models.adam)
    return distloss.prepare(model), batch_of(own_models.Adversarial)


@pytest.mark.parametrize("build", [prepared, two_optimizers_prepared])
def test_a_prepared_step_agrees(build, forked):
    report = distloss.audit(build, replicas=(1, 2))
    assert report.agrees
    assert report.findings == ()


def test_the_remedy_is_to_prepare_it(forked):
    (finding,) = distloss.audit(plain, replicas=(1, 2)).findings
    assert finding.cause == "sum-of-means"
    assert "distloss.prepare(model)" in finding.remedy

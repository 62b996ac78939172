"""prepare() of tf-keras models with a step of their own: as one device, any split."""

import functools

import numpy as np
import own_models_tf_keras as own_models
import pytest
from conftest import strategy_of
from own_models_tf_keras import (
    KINDS,
    adam,
    compiled,
    old_adam,
    old_sgd,
    sgd,
    trained,
)
from test_own_steps import off_by
from training import graphs_as_traced

from distloss import prepare

ALL_KINDS = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True, scope="module")
def quick_graphs():
    with graphs_as_traced():
        yield


@functools.cache
def on_one_device(kind, optimizer):
    """What plain tf-keras trains on one device."""
    return trained(compiled(kind, optimizer))


def on_four(kind, optimizer, *, prepared=True):
    with strategy_of("mirrored").scope():
        model = compiled(kind, optimizer)
    if prepared:
        prepare(model)
    return trained(model)


@pytest.mark.parametrize("optimizer", [sgd, adam])
@ALL_KINDS
def test_a_step_of_its_own_trains_as_on_one_device(kind, optimizer):
    got = on_four(kind, optimizer)
    weights, numbers = off_by(got, on_one_device(kind, optimizer))
    assert weights < 1e-5
    assert numbers < 1e-5


@ALL_KINDS
def test_the_same_unprepared_does_not(kind):
    """How far off plain tf-keras is; where it refuses, that is said."""
    if kind in (own_models.Weighted, own_models.Tagger, own_models.MeanTeacher):
        with pytest.raises(ValueError, match=r"Please use `tf.keras.losses.Reduction"):
            on_four(kind, sgd, prepared=False)
        return
    got = on_four(kind, sgd, prepared=False)
    with np.errstate(invalid="ignore"):
        weights, _ = off_by(got, on_one_device(kind, sgd))
    print(kind.__name__, weights)
    assert not weights < 1e-2  # NaN among them


@pytest.mark.parametrize("optimizer", [old_sgd, old_adam])
def test_the_optimizers_before_those_clip_the_mean_too(optimizer):
    for kind in (own_models.Adversarial, own_models.Guide):
        got = on_four(kind, optimizer)
        assert max(off_by(got, on_one_device(kind, optimizer))) < 1e-5

"""Sums over replicas that are checked: what is wrong is caught in its step, and named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from faults import KINDS, SENT, faulty

import distloss

ROWS, REPLICAS = 16, 4
_rng = np.random.default_rng(3)
X = _rng.normal(size=(ROWS, 5)).astype("float32")
Y = _rng.normal(size=(ROWS, 3)).astype("float32")


def made(optimizer=None, **compiled):
    hidden = keras.layers.Dense(40, "tanh", name="hidden")
    model = keras.Sequential(
        [keras.Input((5,)), hidden, keras.layers.Dense(3, name="outer")], name="net"
    )
    compiled = {"loss": "mse", "jit_compile": False, **compiled}
    model.compile(optimizer or keras.optimizers.Adam(0.01), **compiled)
    return model


def step(model, x=X, y=Y):
    model.train_on_batch(x, y)


def state_of(model):
    variables = [*model.trainable_weights, *model.optimizer.variables]
    return [np.array(variable) for variable in variables]


def assert_unchanged(model, before):
    for was, now in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.fixture
def hurt(four):
    """A prepared model, and the fault that may be done to its sums."""
    with four.scope():
        replicas, fault = faulty(distloss.StrategyReplicas())
        model = distloss.prepare(made(), replicas=replicas, check_sums=True)
        yield model, fault


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_wrong_is_caught_in_its_step(hurt, kind):
    model, fault = hurt
    for _ in range(3):
        step(model)
    before = state_of(model)
    fault.kind, fault.at = kind, 2
    with pytest.raises(distloss.CorruptedSumError) as raised:
        step(model)
    assert_unchanged(model, before)
    error = raised.value
    assert error.step == 4
    assert error.replicas == (2,)
    assert "replica 2 (CPU:2)" in str(error)
    if kind not in SENT:
        assert error.variables == ("net/hidden/kernel",)
    fault.kind = None
    step(model)
    assert model.optimizer.iterations.numpy() == 4

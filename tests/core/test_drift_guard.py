"""DriftGuard under a strategy: copies that differ are found, others are not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

from distloss import DistlossError, StrategyReplicas
from distloss._keras.update_rules import parts_of
from distloss.callbacks import DriftGuard

X = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
Y = X.sum(-1, keepdims=True)


class Unsummed(keras.optimizers.SGD):
    """As Keras before 3.5: each replica updates with its own gradients."""

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def fitted(optimizer, *callbacks, kind="mirrored", count=2):
    with strategy_of(kind, count).scope():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        model.compile(optimizer(0.1), "mse")
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "callbacks": callbacks}
    model.fit(X, Y, **options)
    return model


@pytest.mark.parametrize("replicas", [None, StrategyReplicas()])
def test_copies_that_drift_apart_are_found(replicas):
    with pytest.raises(DistlossError, match="dense/kernel") as raised:
        fitted(Unsummed, DriftGuard(replicas, every=1))
    assert "Expected the same weights on all replicas" in str(raised.value)


def test_copies_that_are_the_same_are_not_reported():
    guard = DriftGuard(every=1)
    model = fitted(keras.optimizers.SGD, guard)
    kernel = model.trainable_weights[0]
    first, second = parts_of(kernel)
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    # what one element gained another lost: the sums agree, the copies do not
    change = tf.constant([[1e-3], [-1e-3], [0.0]])
    second.assign_add(change)
    with pytest.raises(DistlossError, match="dense/kernel"):
        guard.compare()
    second.assign_sub(change)
    first.assign_add(1e-9 * change)  # below the tolerance
    guard.compare()


def test_one_replica_has_nothing_to_compare():
    fitted(keras.optimizers.SGD, DriftGuard(every=1), kind="none", count=1)

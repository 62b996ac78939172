"""Every Keras loss: N replicas train as one device does."""

import functools

import pytest
from cases import LOSSES, batches_of
from conftest import strategy_of
from training import assert_same_training, plain_keras_losses, train

import distloss


@functools.cache
def one_device(name, count):
    """What plain Keras does on one device with the batches for `count` replicas."""
    case = LOSSES[name]
    losses = plain_keras_losses(case)
    return train(strategy_of("none"), case, losses, batches_of(case, count))


def on_replicas(name, count, losses):
    case = LOSSES[name]
    return train(strategy_of("mirrored", count), case, losses, batches_of(case, count))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_replicas_train_as_one_device(name, count):
    wrapped = [
        distloss.DistributedLoss(loss) for loss in plain_keras_losses(LOSSES[name])
    ]
    assert_same_training(on_replicas(name, count, wrapped), one_device(name, count))

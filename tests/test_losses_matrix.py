"""Every Keras loss: N replicas train as one device does."""

import pytest
import tensorflow as tf
from cases import LOSSES, batches_of
from conftest import strategy_of
from training import (
    TwoPasses,
    assert_same_training,
    train_on_strategy,
    train_one_device,
    train_two_passes,
    variants_of,
)

import distloss


def wrapped_variants(case, replicas=None):
    return variants_of(
        case, lambda loss: distloss.DistributedLoss(loss, replicas=replicas)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_any_split_trains_as_one_device(name):
    """All reductions, weights, splits and counts, with the sums taken by hand."""
    case = LOSSES[name]
    for count in (2, 3, 4):
        batches, replicas = batches_of(case, count), TwoPasses(count)
        wrapped = wrapped_variants(case, replicas)
        assert_same_training(
            train_two_passes(case, wrapped, batches, replicas),
            train_one_device(case, variants_of(case), batches),
        )


@pytest.mark.parametrize("name", LOSSES)
def test_mirrored_replicas_train_as_one_device(name):
    """One reduction on 2 and 3, all on 4; each time with other weights."""
    for count in (2, 3, 4):
        assert_mirrored_trains_as_one_device(name, count, distloss.DistributedLoss)


def assert_mirrored_trains_as_one_device(name, count, wrap):
    case, first = LOSSES[name], list(LOSSES).index(name) + count

    def some(variants):
        # a stride of one more than the weights' kinds: one variant per reduction
        stride, first_of = len(variants) // 3 + 1, first % len(variants)
        rotated = variants[first_of:] + variants[:first_of]
        return rotated[::stride] if count == 4 else rotated[:1]

    batches, strategy = batches_of(case, count), strategy_of("mirrored", count)
    assert_same_training(
        train_on_strategy(strategy, case, some(variants_of(case, wrap)), batches),
        train_one_device(case, some(variants_of(case)), batches),
    )


def mean_of_means(loss):
    """What each replica computes when it knows nothing of the others."""

    def wrong(y_true, y_pred, sample_weight):
        values = distloss.DistributedLoss(loss, replicas=distloss.OneDevice())
        return values(y_true, y_pred, sample_weight) / 4

    return wrong


def plain_keras(loss):
    return loss


def scalar_loss(loss):
    """A mean that was taken already, whose gradients are then summed."""
    return lambda y_true, y_pred, weight: tf.reduce_mean(loss.call(y_true, y_pred))


def local_batch_size(loss):
    """The sum over the rows of this replica, divided by their number."""

    def wrong(y_true, y_pred, sample_weight):
        values = loss.call(y_true, y_pred)
        return tf.reduce_sum(values) / tf.cast(tf.shape(values)[0], tf.float32)

    return wrong


@pytest.mark.parametrize(
    "wrong", [mean_of_means, plain_keras, scalar_loss, local_batch_size]
)
def test_the_comparison_rejects(wrong):
    with pytest.raises(AssertionError):
        assert_mirrored_trains_as_one_device("MeanSquaredError", 4, wrong)

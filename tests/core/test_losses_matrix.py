"""Every Keras loss: N replicas train as one device does."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from cases import LOSSES, REDUCTIONS, SPLITS, batch_of, batches_of
from chosen import dealt, some
from conftest import strategy_of
from hypothesis import given, settings
from hypothesis import strategies as st
from training import (
    TwoPasses,
    Variant,
    assert_same_training,
    eager_functions,
    train,
    train_on_strategy,
    train_one_device,
    two_passes,
    two_passes_step,
    variants_of,
)

import distloss


def assert_split_trains_as_one_device(case, variants, trainings):
    """The first `variants` of `case`, with the sums over replicas taken by hand."""

    def wrapped_on(replicas):
        def wrap(loss):
            return distloss.DistributedLoss(loss, replicas=replicas)

        return variants_of(case, wrap)[:variants]

    split = two_passes_step(case, wrapped_on)
    for batches in trainings:
        assert_same_training(
            train(split, variants, batches),
            train_one_device(case, variants_of(case)[:variants], batches),
        )


@pytest.mark.parametrize("name", LOSSES)
def test_any_split_trains_as_one_device(name):
    """All reductions, weights and splits, over 2, 3 or 4; eagerly, one of each.

    Eager code sees that a shard has no rows, where a traced function sees any number.
    """
    case = LOSSES[name]
    counts = dealt((2, 3, 4), list(LOSSES).index(name), 3)
    trainings = [batches_of(case, count) for count in counts]
    assert_split_trains_as_one_device(case, len(variants_of(case)), trainings)
    with eager_functions():
        empty = batch_of(case, "empty", SPLITS[2]["empty"])
        assert_split_trains_as_one_device(case, 1, [[empty]])


@pytest.mark.parametrize("name", some(LOSSES, 4))
@pytest.mark.slow
def test_mirrored_replicas_train_as_one_device(name):
    """One reduction on 2 and 3, all on 4; each time with other weights."""
    for count in (2, 3, 4):
        assert_mirrored_trains_as_one_device(name, count, distloss.DistributedLoss)


def assert_mirrored_trains_as_one_device(name, count, wrap):
    case, first = LOSSES[name], list(LOSSES).index(name) + count

    def some(variants):
        kinds = len(variants) // len(REDUCTIONS)
        by_reduction = [variants[i : i + kinds] for i in range(0, len(variants), kinds)]
        chosen = [group[(first + i) % kinds] for i, group in enumerate(by_reduction)]
        return chosen if count == 4 else [chosen[first % len(chosen)]]

    batches, strategy = batches_of(case, count), strategy_of("mirrored", count)
    assert_same_training(
        train_on_strategy(strategy, case, some(variants_of(case, wrap)), batches),
        train_one_device(case, some(variants_of(case)), batches),
    )


def mean_of_means(loss):
    """What each replica computes when it knows nothing of the others."""
    alone = distloss.DistributedLoss(loss, replicas=distloss.OneDevice())
    return lambda y_true, y_pred, weight: alone(y_true, y_pred, weight) / 4


def plain_keras(loss):
    return loss


def scalar_loss(loss):
    """A mean that was taken already, whose gradients are then summed."""
    return lambda y_true, y_pred, weight: tf.reduce_mean(loss.call(y_true, y_pred))


def local_batch_size(loss):
    """The sum over the rows of this replica, divided by their number."""

    def wrong(y_true, y_pred, sample_weight):
        values = loss.call(y_true, y_pred)
        elements = tf.cast(tf.size(values), tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(values), elements)

    return wrong


def assert_short_batch_trains_as_one_device(wrap):
    """The mean without weights: the plainest case that can be wrong."""
    case, strategy = LOSSES["MeanSquaredError"], strategy_of("mirrored")
    batches = [batch_of(case, "short", SPLITS[4]["short"])]
    bare = case.make()
    assert_same_training(
        train_on_strategy(strategy, case, [Variant(wrap(bare), "none")], batches),
        train_one_device(case, [Variant(bare, "none")], batches),
    )


def test_the_comparison_accepts_the_right_loss():
    assert_short_batch_trains_as_one_device(distloss.DistributedLoss)


@pytest.mark.parametrize(
    "wrong", [mean_of_means, plain_keras, scalar_loss, local_batch_size]
)
def test_the_comparison_rejects(wrong):
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_short_batch_trains_as_one_device(wrong)


def reduced_in_numpy(values, weight, mask, reduction):
    """The design's table, in float64, over the whole batch."""
    values, weight, mask = (np.asarray(a, np.float64) for a in (values, weight, mask))
    numerator = (values * weight * mask).sum()
    denominator = {
        "sum_over_batch_size": mask.sum(),
        "mean_with_sample_weight": (weight * mask).sum(),
        "sum": 1,
    }[reduction]
    return numerator / denominator if denominator else 0


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3), min_size=2, max_size=4).filter(sum),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_reports_the_mean_of_numpy(sizes, reduction, seed):
    """Token weights and masks at once, many of them zero."""
    rng, rows = np.random.default_rng(seed), sum(sizes)
    values = rng.normal(size=(rows, 3)).astype("float32")
    weight = (rng.uniform(size=(rows, 3)) * (rng.random((rows, 3)) < 0.6)).astype(
        "float32"
    )
    mask = rng.random((rows, 3)) < 0.6

    def share(rows, totals):
        replicas = TwoPasses(len(sizes), totals)
        loss = distloss.DistributedLoss(
            lambda y_true, y_pred: y_pred, reduction=reduction, replicas=replicas
        )
        y_pred = tf.constant(values[rows])
        y_pred._keras_mask = tf.constant(mask[rows])
        return loss(values[rows], y_pred, weight[rows]), replicas.recorded

    bounds = np.cumsum([0, *sizes])
    shards = [slice(i, j) for i, j in itertools.pairwise(bounds)]
    got = sum(float(value) for value in two_passes(share, shards, sums=1))
    wanted = reduced_in_numpy(values, weight, mask, reduction)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)

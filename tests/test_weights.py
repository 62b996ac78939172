"""Weights and masks: of which shapes and types they may be, and what they mean."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import since_keras

from distloss import DistributedLoss

RNG = np.random.default_rng(11)
TOKENS = 3


def dealt(strategy, shards):
    """Each replica's own tensor, whose number of rows is static."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(shards[context.replica_id_in_sync_group])
    )


def value_and_gradient(loss, values, weight):
    """Of `loss`, which is linear in `values`."""
    with tf.GradientTape() as tape:
        scale = tf.ones(TOKENS)
        tape.watch(scale)
        y_pred = tf.abs(values) * scale
        value = loss(tf.zeros_like(values), y_pred, weight)
    return value, tape.gradient(value, scale)


def absolute(y_true, y_pred):
    return tf.abs(y_true - y_pred)


def on_one_device(values, weight):
    """sum(w * v) over the sum of the weights as passed, as Keras has it; NumPy."""
    values, weight = np.abs(values).astype("float64"), weight.astype("float64")
    products = values * weight
    return products.sum() / weight.sum(), products.sum(0) / weight.sum()


SIZES = [(3, 1, 0, 2), (1, 1, 1, 2), (1, 0, 1, 1), (1, 1, 1, 0), (2, 2, 2, 2)]


@since_keras(3, 7)
@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("are_shared", [True, False])
def test_replicas_agree_on_whether_weights_are_shared(four, sizes, are_shared, traced):
    """A replica of one row cannot know it by itself."""
    values = RNG.normal(size=(sum(sizes), TOKENS)).astype("float32")
    first_axis = 1 if are_shared else sum(sizes)
    weight = RNG.uniform(1, 9, (first_axis, TOKENS)).astype("float32")
    bounds = np.cumsum(sizes)[:-1]
    value_shards = np.split(values, bounds)
    weight_shards = [weight] * 4 if are_shared else np.split(weight, bounds)
    loss = DistributedLoss(absolute, reduction="mean_with_sample_weight")

    def step(*shards):
        results = four.run(value_and_gradient, (loss, *shards))
        return [four.reduce("SUM", result, axis=None) for result in results]

    step = tf.function(step) if traced else step
    got = step(dealt(four, value_shards), dealt(four, weight_shards))
    for ours, wanted in zip(got, on_one_device(values, weight), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@since_keras(3, 7)
def test_plain_keras_counts_shared_weights_once():
    """What the test above expects is what Keras has on one device."""
    values = RNG.normal(size=(6, TOKENS, 1)).astype("float32")
    for rows in (1, 6):
        weight = RNG.uniform(1, 9, (rows, TOKENS)).astype("float32")
        bare = keras.losses.MeanAbsoluteError(reduction="mean_with_sample_weight")
        plain = bare(np.zeros_like(values), values, weight)
        wanted, _ = on_one_device(values[:, :, 0], weight)
        np.testing.assert_allclose(plain, wanted, rtol=1e-5)


@since_keras(3, 7)
def test_where_each_replica_has_one_row_its_weight_is_its_own(four):
    """Nothing says that rows share them, and four like weights are no rare thing."""
    values = RNG.normal(size=(4, TOKENS)).astype("float32")
    weight = np.tile([[1.0, 2.0, 4.0]], (4, 1)).astype("float32")
    loss = DistributedLoss(absolute, reduction="mean_with_sample_weight")
    shards = [dealt(four, np.split(array, 4)) for array in (values, weight)]
    value, gradient = four.run(value_and_gradient, (loss, *shards))
    wanted_value, wanted_gradient = on_one_device(values, weight)
    np.testing.assert_allclose(four.reduce("SUM", value, None), wanted_value, rtol=1e-5)
    np.testing.assert_allclose(
        four.reduce("SUM", gradient, None), wanted_gradient, rtol=1e-5
    )


@since_keras(3, 7)
@pytest.mark.parametrize("weights_are_open", [True, False])
@pytest.mark.parametrize("are_shared", [True, False])
def test_rows_that_are_open_are_counted_when_run(four, are_shared, weights_are_open):
    """An open number of rows may be one, and so may that of weights."""
    sizes = (1, 3, 1, 2) if are_shared else (1, 1, 1, 1)
    values = RNG.normal(size=(sum(sizes), TOKENS)).astype("float32")
    weight = RNG.uniform(1, 9, (1 if are_shared else 4, TOKENS)).astype("float32")
    loss = DistributedLoss(absolute, reduction="mean_with_sample_weight")
    bounds = np.cumsum([0, *sizes])

    @tf.function(input_signature=[tf.TensorSpec([5], tf.int64)])
    def step(bounds):
        def replica_step():
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = tf.constant(values)[bounds[me] : bounds[me + 1]]
            start = 0 if are_shared else me
            my_weight = tf.constant(weight)[start : start + 1]
            shape = [None if weights_are_open else 1, TOKENS]
            my_weight = tf.ensure_shape(
                tf.gather(my_weight, tf.range(bounds[1])), shape
            )
            return value_and_gradient(loss, mine, my_weight)

        return [four.reduce("SUM", r, axis=None) for r in four.run(replica_step)]

    for ours, wanted in zip(step(bounds), on_one_device(values, weight), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5)

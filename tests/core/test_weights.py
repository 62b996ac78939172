"""Weights and masks: of which shapes and types they may be, and what they mean."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import since_keras

from distloss import DistlossError, DistributedLoss, mean_share, regularization_share

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


def step_of_rows(kind, rows, weights):
    """The term of each kind that a layer may add, as the docstring says to add it."""
    values = weights * rows
    if kind == "weights":
        return regularization_share(tf.reduce_sum(weights**2))
    return mean_share(values) if kind == "mean" else tf.reduce_sum(values)


@pytest.mark.parametrize("kind", ["weights", "mean", "sum"])
def test_the_three_kinds_of_added_terms_add_up(four, kind):
    """To the gradient of the whole batch on one device, of uneven and empty shards."""
    sizes = (3, 1, 0, 2)
    rows = RNG.normal(size=(sum(sizes), 1)).astype("float32")
    weights = tf.constant([2.0, 3.0])

    def gradient(rows):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            term = step_of_rows(kind, rows, weights)
        return tape.gradient(term, weights)

    shards = dealt(four, np.split(rows, np.cumsum(sizes)[:-1]))
    step = tf.function(
        lambda shards: four.reduce("SUM", four.run(gradient, (shards,)), None)
    )
    wanted = {
        "weights": 2 * weights.numpy(),
        "mean": np.full(2, rows.mean(dtype="float64") / 2),
        "sum": np.full(2, rows.sum(dtype="float64")),
    }
    np.testing.assert_allclose(step(shards), wanted[kind], rtol=1e-5)


NUMBERS = {
    "int64 beyond float32": np.array([[2**24 + 1], [1], [3], [2]], "int64"),
    "booleans": np.array([[True], [False], [True], [True]]),
    "uint8": np.array([[200], [1], [2], [255]], "uint8"),
    "one more axis": np.arange(1.0, 5)[:, np.newaxis, np.newaxis] * np.ones((4, 3, 1)),
    "negative": np.array([[-1.0], [2.0], [1.0], [1.0]]),
    "no weight in all": np.array([[-1.0], [1.0], [-1.0], [1.0]]),
    "NaN": np.array([[np.nan], [2.0], [1.0], [1.0]]),
}


@since_keras(3, 7)
@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight"])
@pytest.mark.parametrize("kind", [*NUMBERS, "variable"])
def test_weights_of_any_number_type_mean_what_they_do_in_keras(kind, reduction):
    y_pred = np.arange(12, dtype="float32").reshape(4, 3, 1)
    weight = NUMBERS.get(kind)
    if kind == "variable":
        weight = keras.Variable(np.arange(12.0).reshape(4, 3))
    bare = keras.losses.MeanSquaredError(reduction=reduction)
    wanted = bare(np.zeros_like(y_pred), y_pred, weight)
    got = DistributedLoss(bare)(np.zeros_like(y_pred), y_pred, weight)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_sums_of_small_types_do_not_overflow():
    halves = tf.fill([70_000], tf.constant(2.0, tf.float16))
    heavy = tf.fill([70_000], tf.constant(60_000.0, tf.float16))
    assert float(mean_share(halves, heavy)) == 2
    bytes_ = tf.constant([200, 255, 255], tf.uint8)
    wanted = (200**2 + 2 * 255**2) / 710
    np.testing.assert_allclose(mean_share(bytes_, bytes_), wanted, rtol=1e-6)


def test_ragged_rows_that_a_loss_makes_dense_are_those_of_keras():
    y_true = tf.ragged.constant([[1.0, 2.0], [3.0]])
    y_pred = tf.ragged.constant([[2.0, 2.0], [1.0]])
    bare = keras.losses.MeanSquaredError()
    wanted = bare(y_true, y_pred)
    np.testing.assert_allclose(DistributedLoss(bare)(y_true, y_pred), wanted)


RAGGED = tf.ragged.constant([[1.0, 2.0], [3.0]])
NO_NUMBERS = ["a", {"a": 1}, [1.0, None], [[1.0], [1.0, 2.0]], [1j, 2], RAGGED]


def call_loss(weights):
    return DistributedLoss("mse")(np.zeros((2, 1)), np.ones((2, 1)), weights)


@pytest.mark.parametrize("what", NO_NUMBERS, ids=str)
@pytest.mark.parametrize(
    "call",
    [
        call_loss,
        mean_share,
        lambda weights: mean_share([1.0, 2.0], weights),
        lambda losses: regularization_share([losses]),
        lambda values: DistributedLoss(lambda *_: values)([[1.0]], [[1.0]]),
    ],
)
def test_what_is_no_number_is_refused(call, what):
    with pytest.raises(
        DistlossError, match=r"(?s)^Expected .* Got .* of type"
    ) as caught:
        call(what)
    assert isinstance(caught.value, TypeError | ValueError)


@pytest.mark.parametrize(
    ("y_true", "y_pred"),
    [
        (tf.constant([[1j]]), [[1.0]]),
        ([[1.0]], tf.constant([[1j]])),
        ([["a"]], [[1.0]]),
        (np.array([["a"]]), [[1.0]]),
        (tf.constant([["a"]]), [[1.0]]),
        (None, [[1.0]]),
    ],
)
def test_targets_and_predictions_that_a_cast_would_cut_are_refused(y_true, y_pred):
    with pytest.raises(DistlossError, match=r"^Expected targets and predictions"):
        DistributedLoss("mse")(y_true, y_pred)


def test_weights_of_two_more_axes_are_refused():
    with pytest.raises(DistlossError, match=r"weights.shape=\(2, 1, 1\)"):
        mean_share([1.0, 2.0], [[[1.0]], [[2.0]]])

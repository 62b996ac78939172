"""mean_share and regularization_share: the formula for people with their own loop."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from hypothesis import given, settings
from hypothesis import strategies as st

import distloss
from distloss import DistlossError, OneDevice, mean_share, regularization_share

FEATURES = 3


def step_on(strategy):
    """A traced step over rows dealt to replicas: mean, gradient of sum_r share_r."""

    def replica_step(x, weight, bounds, theta):
        me = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = slice(bounds[me], bounds[me + 1])
        with tf.GradientTape() as tape:
            tape.watch(theta)
            values = tf.square(tf.linalg.matvec(x[rows], theta))
            share = mean_share(values, weight[rows])
        return share, tape.gradient(share, theta)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, FEATURES]),
            tf.TensorSpec([None]),
            tf.TensorSpec([1 + strategy.num_replicas_in_sync], tf.int32),
            tf.TensorSpec([FEATURES]),
        ],
    )
    def step(x, weight, bounds, theta):
        results = strategy.run(replica_step, (x, weight, bounds, theta))
        return [strategy.reduce("SUM", result, axis=None) for result in results]

    return step


def weighted_mean(x, weight, theta):
    """NumPy, float64, the whole batch."""
    x, weight, theta = (np.asarray(a, np.float64) for a in (x, weight, theta))
    products = x @ theta
    total = max(weight.sum(), np.finfo(float).tiny)
    value = (weight * products**2).sum() / total
    gradient = (2 * (weight * products)[:, np.newaxis] * x).sum(0) / total
    return value, gradient


def assert_shares_add_up(step, sizes, weights, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), FEATURES)).astype("float32")
    theta = rng.normal(size=FEATURES).astype("float32")
    weight = np.array(weights, "float32")
    bounds = np.cumsum([0, *sizes]).astype("int32")
    value, gradient = step(x, weight, bounds, theta)
    wanted_value, wanted_gradient = weighted_mean(x, weight, theta)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-5, atol=1e-30)
    scale = np.abs(wanted_gradient).max() or 1
    np.testing.assert_allclose(gradient / scale, wanted_gradient / scale, atol=1e-5)


@st.composite
def dealt_rows(draw, replicas):
    sizes = draw(st.lists(st.integers(0, 6), min_size=replicas, max_size=replicas))
    weight = st.one_of(st.just(0.0), st.floats(0.125, 100, width=32))
    weights = draw(st.lists(weight, min_size=sum(sizes), max_size=sum(sizes)))
    return sizes, weights


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_shares_add_up_to_the_mean_over_the_whole_batch(replicas):
    step = step_on(strategy_of("mirrored", replicas))

    @settings(max_examples=60, deadline=None)
    @given(rows=dealt_rows(replicas), seed=st.integers(0, 2**32 - 1))
    def check(rows, seed):
        assert_shares_add_up(step, *rows, seed)

    check()


def test_the_property_rejects_a_mean_of_means(monkeypatch, four):
    def mean_of_means(values, weights):
        return distloss.mean_share(values, weights, replicas=OneDevice()) / 4

    monkeypatch.setitem(globals(), "mean_share", mean_of_means)
    step = step_on(four)
    with pytest.raises(AssertionError):
        assert_shares_add_up(step, (3, 1, 2, 2), range(1, 9), seed=0)


def test_mean_share_of_tokens_weighs_rows_or_tokens():
    values = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert float(mean_share(values)) == 3.0
    assert float(mean_share(values, [3.0, 1.0])) == (3 * 3 + 9) / (2 * 4)
    assert float(mean_share(values, [[1.0, 0.0], [0.0, 3.0]])) == (1 + 18) / 4
    assert float(mean_share(values, 7.0)) == 3.0


def test_mean_share_of_nothing_is_zero():
    assert float(mean_share([1.0, 2.0], [0.0, 0.0])) == 0
    assert float(mean_share(tf.zeros((0, 3)))) == 0


def test_mean_share_keeps_float64_and_widens_half_precision():
    assert mean_share(np.ones(2)).dtype == tf.float64
    assert mean_share(tf.ones(2, tf.bfloat16)).dtype == tf.float32


def test_regularization_share_is_one_nth(four):
    def replica_step():
        return regularization_share([tf.constant(3.0), tf.constant([1.0, 2.0])])

    shares = four.experimental_local_results(four.run(replica_step))
    assert [float(share) for share in shares] == [1.5] * 4
    assert float(regularization_share([])) == 0
    assert float(regularization_share(tf.constant([1.0, 2.0]))) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_share(1.0), r"^Expected the loss of each row"),
        (lambda: mean_share([1.0, 2.0], [1.0, 2.0, 3.0]), r"^Expected weights"),
        (lambda: mean_share([1.0], replicas="all"), r"^Expected replicas="),
        (lambda: regularization_share(None), r"^Expected a tensor"),
        (lambda: regularization_share([], replicas=2), r"^Expected replicas="),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(DistlossError, match=message):
        call()


def test_mean_share_in_cross_replica_context_is_refused(four):
    with four.scope(), pytest.raises(DistlossError, match="replica context"):
        mean_share([1.0, 2.0])


def test_every_alignment_of_weights_is_that_of_keras():
    """Where Keras takes shapes at all, and does not mix rows."""
    import keras

    shapes = [(4,), (4, 1), (4, 3), (4, 3, 1), (1, 3), (), (1,), (4, 1, 1)]
    compared = 0
    for value_shape, weight_shape in itertools.product(shapes, shapes):
        if not value_shape or value_shape[0] != 4:
            continue
        rng = np.random.default_rng(0)
        values = rng.normal(size=value_shape).astype("float32")
        weight = rng.uniform(size=weight_shape).astype("float32")
        loss = keras.losses.MeanSquaredError(reduction="none")
        loss.call = lambda y_true, y_pred: y_pred
        try:
            wanted = loss(values, values, weight).numpy()
        except (tf.errors.InvalidArgumentError, ValueError):
            continue
        if wanted.size != values.size:
            continue
        ours = distloss._formula.reduce.weighted(values, weight).elements
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)
        compared += 1
    assert compared > 15

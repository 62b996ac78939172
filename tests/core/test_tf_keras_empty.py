"""tf-keras on replicas of which some have no rows, against plain tf-keras on one."""

import contextlib
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from cases import fresh
from chosen import some
from conftest import few_of, strategy_of
from quick import with_slots

from distloss import prepare
from distloss._errors import ArgumentError, ContextError

pytestmark = pytest.mark.slow

ROWS, SIZE = 10, 8  # the last batch has 2 rows, which go to the first replicas
RNG = np.random.default_rng(3)
X = RNG.normal(size=(ROWS, 4)).astype("float32")
Y = RNG.normal(size=(ROWS, 1)).astype("float32")
WEIGHT = RNG.uniform(0.1, 5.0, ROWS).astype("float32")
IMAGES = RNG.normal(size=(ROWS, 6, 5, 1)).astype("float32")
layers = tf_keras.layers


class Adds(layers.Layer):
    """Adds (a function of a trainable number) * (a mean over rows)."""

    def build(self, _shape):
        self.beta = self.add_weight("beta", (), initializer="ones")

    def call(self, x):
        mean = tf.reduce_mean(tf.square(x))
        self.add_loss(self.beta * mean)
        self.add_loss(tf.sqrt(self.beta) * tf.reduce_mean(x))
        return x


class AddsRows(layers.Layer):
    """Adds one value per row, as an end point with CTC does."""

    def call(self, x):
        self.add_loss(tf.reduce_sum(tf.square(x - 1), -1))
        return x


class AddsRoot(layers.Layer):
    """Whose gradient at zeros is infinite."""

    def call(self, x):
        return tf.sqrt(tf.abs(x))


def mean_error(y_true, y_pred):
    """A scalar, in plain tf-keras the mean of means."""
    return tf.reduce_mean(tf.abs(y_true - y_pred))


def error_of_rows(y_true, y_pred):
    """Which fails on no rows."""
    with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(y_pred)[0])]):
        return tf.reduce_sum(tf.square(y_true - y_pred), -1)


def adding():
    return tf_keras.Sequential([layers.Dense(4, input_shape=(4,)), Adds(), *tail()])


def tail():
    return [layers.Dense(3, "tanh", kernel_regularizer="l2"), layers.Dense(1)]


def convolving():
    first = layers.Conv2D(3, 3, activation="relu", input_shape=IMAGES.shape[1:])
    return tf_keras.Sequential([first, layers.Flatten(), *tail()])


def infinite():
    return tf_keras.Sequential([layers.Input([4]), AddsRoot(), *tail()])


def not_built():
    return tf_keras.Sequential([AddsRoot(), *tail()])


def synchronised():
    bn = layers.BatchNormalization(synchronized=True)
    return tf_keras.Sequential([layers.Dense(4, input_shape=(4,)), bn, *tail()])


CASES = {
    "added losses": (adding, X, "mse"),
    "a convolution": (convolving, IMAGES, "mse"),
    "an infinite gradient": (infinite, X, "mse"),
    "not built": (not_built, X, "mse"),
    "a loss that fails on no rows": (infinite, X, error_of_rows),
    "synchronised": (synchronised, X, "mse"),
}


def compiled(make, loss, strategy=None, **options):
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        tf_keras.utils.set_random_seed(4)
        model = make()
        optimizer = tf_keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=2.0)
        model.compile(optimizer, loss, **options)
        return with_slots(model) if model.built else model


def fitted(model, x, y=Y, sample_weight=None):
    """Weights, the losses and metrics of two epochs, and what evaluate reports."""
    options = {"sample_weight": sample_weight, "verbose": 0}
    history = model.fit(x, y, SIZE, 2, shuffle=False, **options).history
    report = model.evaluate(x, y, SIZE, return_dict=True, **options)
    numbers = {**history, **{f"final {name}": value for name, value in report.items()}}
    return [weight.numpy() for weight in model.weights], numbers


def assert_same(got, wanted, rtol=2e-5):
    assert sorted(got[1]) == sorted(wanted[1])
    for ours, theirs in zip(got[0], wanted[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol, atol=2e-6)
    for name, values in wanted[1].items():
        np.testing.assert_allclose(got[1][name], values, rtol, err_msg=name)


@pytest.mark.parametrize("name", some(CASES, 2))
@pytest.mark.parametrize("count", some([4, 2], 2))
def test_empty_shards_count_nothing(name, count):
    make, x, loss = CASES[name]
    options = {"metrics": ["mae"]}
    wanted = fitted(compiled(make, loss, **options), x)
    model = prepare(compiled(make, loss, strategy_of("mirrored", count), **options))
    assert_same(fitted(model, x), wanted)


@pytest.mark.parametrize("name", ["added losses", "a convolution"])
def test_empty_shards_count_nothing_in_parts(name):
    make, x, loss = CASES[name]
    wanted = fitted(compiled(make, loss), x)
    model = prepare(compiled(make, loss, strategy_of("mirrored", 4)), microbatches=2)
    assert_same(fitted(model, x), wanted)


@pytest.mark.parametrize("parts", [1, 2])
def test_empty_shards_count_nothing_eagerly(parts):
    wanted = fitted(compiled(adding, "mse", metrics=["mae"]), X)
    options = {"metrics": ["mae"], "run_eagerly": True}
    model = compiled(adding, "mse", strategy_of("mirrored", 4), **options)
    assert_same(fitted(prepare(model, microbatches=parts), X), wanted)


def dealt(strategy, sizes):
    """The rows, so many to each replica, for ever."""
    starts = np.cumsum([0, *sizes])
    spans = [slice(*bounds) for bounds in itertools.pairwise(starts)]
    signature = tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])

    def dataset(_context):
        parts = [(X[span], Y[span]) for span in spans]
        return tf.data.Dataset.from_generator(
            lambda: map(fresh, itertools.cycle(parts)), output_signature=signature
        )

    return strategy.distribute_datasets_from_function(dataset)


def test_batch_normalization_of_no_rows_changes_nothing():
    """All rows of the batch are the first replica's."""

    def make():
        bn = layers.BatchNormalization()
        return tf_keras.Sequential([layers.Dense(4, input_shape=(4,)), bn, *tail()])

    strategy = strategy_of("mirrored")
    one = compiled(make, "mse")
    model = prepare(compiled(make, "mse", strategy))
    one.fit(X, Y, ROWS, 3, verbose=0)
    model.fit(dealt(strategy, [ROWS, 0, 0, 0]), steps_per_epoch=1, epochs=3, verbose=0)
    for ours, theirs in zip(
        model.trainable_weights, one.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-5, 1e-6)
    for ours, theirs, start in zip(
        model.non_trainable_weights, one.non_trainable_weights, (0, 1), strict=True
    ):
        first, *others = (x.numpy() for x in ours.values)
        np.testing.assert_allclose(first, theirs.numpy(), 1e-5)
        np.testing.assert_array_equal(others, np.full([3, 4], start))


def test_scalar_metrics_weigh_by_rows():
    options = {"metrics": [mean_error]}
    # as many rows in each batch, for to tf-keras each batch weighs as much
    x, y = np.concatenate([X[:5], X[5:]]), Y
    one = compiled(adding, "mse", **options)
    model = prepare(compiled(adding, "mse", strategy_of("mirrored"), **options))
    histories, reports = [], []
    for each in (one, model):
        history = each.fit(x, y, 5, 2, shuffle=False, verbose=0).history
        histories.append(history["mean_error"])
        reports.append(each.evaluate(x, y, 5, verbose=0))
    np.testing.assert_allclose(*histories, 1e-5)
    np.testing.assert_allclose(*reports, 1e-5)


def test_an_added_loss_alone_is_reported_as_it_is():
    def make():
        return tf_keras.Sequential([layers.Dense(4, input_shape=(4,)), Adds()])

    wanted = fitted(compiled(make, None), X, None)
    model = prepare(compiled(make, None, few_of("mirrored")))
    assert_same(fitted(model, X, None), wanted)


def test_values_per_row_that_a_layer_adds_are_summed_as_on_one_device():
    def make():
        return tf_keras.Sequential([layers.Dense(4, input_shape=(4,)), AddsRows()])

    wanted = fitted(compiled(make, None), X, None)
    strategy = few_of("mirrored")
    assert_same(fitted(prepare(compiled(make, None, strategy)), X, None), wanted)
    with pytest.raises(ArgumentError, match="one number"):
        fitted(prepare(compiled(make, None, strategy), microbatches=2), X, None)


def two_heads():
    x = layers.Input([4])
    hidden = layers.Dense(3, "tanh")(x)
    shape = layers.Reshape((5, 2), name="b")(layers.Dense(10)(hidden))
    return tf_keras.Model(x, [layers.Dense(1, name="a")(hidden), shape])


@pytest.mark.parametrize("parts", [1, 2])
def test_one_loss_serves_several_outputs(parts):
    y = [Y, RNG.normal(size=(ROWS, 5, 2)).astype("float32")]
    wanted = fitted(compiled(two_heads, "mse"), X, y)
    model = compiled(two_heads, "mse", strategy_of("mirrored", 2))
    assert_same(fitted(prepare(model, microbatches=parts), X, y), wanted)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_of_no_weight_keeps_the_regulariser(parts):
    weight = WEIGHT.copy()
    weight[:SIZE] = 0
    wanted = fitted(compiled(infinite, "mse"), X, Y, weight)
    model = compiled(infinite, "mse", strategy_of("mirrored", 2))
    assert_same(fitted(prepare(model, microbatches=parts), X, Y, weight), wanted)


def test_evaluate_after_compiling_again_is_refused():
    model = prepare(compiled(infinite, "mse", strategy_of("mirrored", 2)))
    model.compile("sgd", "mse")
    with pytest.raises(ContextError, match="compiled again"):
        model.evaluate(X, Y, verbose=0)


class AddsMetric(layers.Layer):
    def call(self, x):
        self.add_metric(tf.reduce_mean(x), name="mean")
        return x


def test_what_meets_other_replicas_in_a_part_is_refused_by_name():
    def make():
        return tf_keras.Sequential([layers.Dense(4, input_shape=(4,)), AddsMetric()])

    model = prepare(compiled(make, "mse", strategy_of("mirrored", 2)), microbatches=2)
    with pytest.raises(ArgumentError, match="add_metric"):
        model.fit(X, X, SIZE, verbose=0)

"""Where a gradient stopped being finite: replica, variable and row, or the sum."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_check_sums import (
    IDS,
    Loop,
    X,
    Y,
    assert_unchanged,
    embedding,
    gradients_of,
    made,
    state_of,
    step,
)

import distloss
from distloss import NonfiniteGradientError

BAD_ROW, REPLICA = 9, 2  # the second row of replica 2, which has rows 8 to 11


def hurt_inputs():
    x = X.copy()
    x[BAD_ROW, 3] = np.nan
    return x


def hurt_targets(value):
    y = Y.copy()
    y[BAD_ROW] = value
    return y


def raised_by(model, x=X, y=Y):
    before = state_of(model)
    with pytest.raises(NonfiniteGradientError) as raised:
        step(model, x, y)
    assert_unchanged(model, before)
    return raised.value


@pytest.fixture
def prepared(four):
    with four.scope():
        yield distloss.prepare(made(), check_sums=True)


@pytest.mark.slow
def test_of_inputs(prepared):
    step(prepared)
    error = raised_by(prepared, hurt_inputs())
    assert (error.step, error.replicas) == (2, (REPLICA,))
    assert (
        "not finite on replica 2 (CPU:2) before the sum, first in `net/hidden/kernel` "
        "(200 of 200 values); the loss of its row 1 is nan" in str(error)
    )
    assert "net/outer/bias" in error.variables


@pytest.mark.slow
def test_of_targets(prepared):
    step(prepared)
    error = raised_by(prepared, y=hurt_targets(np.inf))
    assert error.replicas == (REPLICA,)
    assert "the loss of its row 1 is inf" in str(error)


@pytest.mark.slow
def test_of_the_weights_of_one_replica(prepared):
    kernel = prepared.get_layer("outer").kernel
    kernel.value.values[REPLICA].assign(np.full((40, 3), np.nan, "float32"))
    with pytest.raises(NonfiniteGradientError) as raised:
        step(prepared)
    assert raised.value.replicas == (REPLICA,)
    assert "first in `net/hidden/kernel` (200 of 200 values)" in str(raised.value)
    assert "the loss of its row 0 is nan" in str(raised.value)


class Adds(keras.layers.Layer):
    """Adds a loss whose gradient is not finite where the first input is above 90."""

    def call(self, x):
        self.add_loss(tf.reduce_mean(tf.where(x[:, 0] > 90, np.inf, 1.0) * x[:, 1]))
        return x


class Breaks(keras.layers.Layer):
    """Divides by zero where the first input is above 90, and nothing shows of it."""

    def call(self, x):
        @tf.custom_gradient
        def through(x):
            bad = tf.where(x[:, :1] > 90, np.inf, 1.0)
            return tf.identity(x), lambda upstream: upstream * bad

        return through(x)


def with_layer(layer):
    scaled = keras.layers.Dense(5, use_bias=False, name="scaled")
    scaled_by_one = keras.initializers.Identity()
    scaled.kernel_initializer = scaled_by_one
    inner = keras.Input((5,))
    outer = keras.layers.Dense(3, name="outer")(layer(scaled(inner)))
    model = keras.Model(inner, outer, name="net")
    model.compile("sgd", "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("layer", [Adds, Breaks])
def test_of_a_loss_term_or_layer_whose_rows_have_finite_losses(four, layer):
    x = X.copy()
    x[BAD_ROW, 0] = 100.0
    with four.scope():
        model = distloss.prepare(with_layer(layer()), check_sums=True)
        error = raised_by(model, x)
    assert error.replicas == (REPLICA,)
    assert error.variables == ("scaled/kernel",)
    assert "first in `scaled/kernel` (" in str(error)
    assert "the losses of its rows are finite" in str(error)


@pytest.mark.slow
def test_of_a_sparse_gradient(four):
    with four.scope():
        model = embedding()
        model.compile("sgd", "mse", jit_compile=False)
        distloss.prepare(model, check_sums=True)
        table = model.get_layer("words").embeddings
        start = np.array(table)
        start[IDS[4]] = np.nan  # rows of replica 1, which others look up too
        table.assign(start)
        with pytest.raises(NonfiniteGradientError) as raised:
            step(model, IDS)
    assert "words/embeddings" in raised.value.variables


@pytest.mark.slow
def test_of_a_sum_that_is_too_large(four):
    """Finite on each replica: the dtype ends, and no collective is blamed."""
    loop = Loop(four, dtype="float16")
    with pytest.raises(NonfiniteGradientError) as raised:
        loop(np.full((4, 64), 40_000.0))
    assert raised.value.replicas == ()
    assert "finite on all replicas, too large for float16 after the sum, in `w`" in str(
        raised.value
    )


@pytest.mark.slow
def test_of_the_collective(four):
    loop = Loop(four)
    loop.fault.kind, loop.fault.at = "nan", 1
    with pytest.raises(distloss.CorruptedSumError) as raised:
        loop(gradients_of())
    said = "finite on all replicas, not finite after the sum: the collective"
    assert said in str(raised.value)


def test_a_warning_leaves_the_update_as_it_is(four):
    loop = Loop(four, on_nonfinite="warn")
    bad = gradients_of()
    bad[2, 5] = np.inf
    with pytest.warns(RuntimeWarning, match="not finite on replica 2"):
        loop(bad)
    assert np.isnan(loop.values()[5]) or np.isinf(loop.values()[5])
    assert loop.optimizer.iterations.numpy() == 1
    assert loop.optimizer.nonfinite_steps == 1


@pytest.mark.parametrize("rule", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_an_update_is_skipped(four, rule):
    loop = Loop(four, on_nonfinite="skip", rule=rule)
    bad = gradients_of()
    bad[2, 5] = np.inf
    loop(gradients_of())
    before = [variable.value.numpy() for variable in loop.optimizer.variables]
    weights = loop.values()
    with pytest.warns(RuntimeWarning, match="not finite on replica 2"):
        loop(bad)
    np.testing.assert_array_equal(loop.values(), weights)
    for was, now in zip(before, loop.optimizer.variables, strict=True):
        np.testing.assert_array_equal(was, now.value.numpy())
    loop(gradients_of(seed=2))
    plain = Loop(four, check_sums=False, rule=rule)
    plain(gradients_of())
    plain(gradients_of(seed=2))
    np.testing.assert_array_equal(loop.values(), plain.values())


@pytest.mark.slow
def test_skips_of_a_prepared_model_and_sparse_gradients(four):
    with four.scope():
        model = embedding()
        model.compile("sgd", "mse", jit_compile=False)
        distloss.prepare(model, check_sums=True, on_nonfinite="skip")
        step(model, IDS)
        before = state_of(model)
        with pytest.warns(RuntimeWarning, match="the loss of its row 1 is nan"):
            step(model, IDS, hurt_targets(np.nan))
        assert_unchanged(model, before)
        step(model, IDS)
    assert not all(map(np.array_equal, before, state_of(model)))


def scaled_sgd(rate):
    inner = keras.optimizers.SGD(rate)
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)


def test_overflow_under_a_loss_scale_is_only_counted(four):
    loop = Loop(four, rule=scaled_sgd)
    bad = gradients_of()
    bad[2, 5] = np.inf
    loop(bad)
    assert loop.values().tolist() == [1.0] * 64
    assert loop.optimizer.dynamic_scale.numpy() == 32.0
    assert loop.optimizer.nonfinite_steps == 1
    loop(gradients_of())
    assert loop.optimizer.nonfinite_steps == 1
    assert loop.values().tolist() != [1.0] * 64


def test_wrong_sums_under_a_loss_scale_are_caught(four):
    loop = Loop(four, rule=scaled_sgd)
    loop(gradients_of())
    before = loop.values()
    loop.fault.kind, loop.fault.at = "nan", 1
    with pytest.raises(distloss.CorruptedSumError, match="the collective"):
        loop(gradients_of())
    np.testing.assert_array_equal(loop.values(), before)


@pytest.mark.slow
def test_mixed_float16_of_fit(four):
    """`compile` puts a LossScaleOptimizer around the one that is prepared."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with four.scope():
            model = distloss.prepare(made(), check_sums=True)
            step(model, 1e5 * X)  # infinite in float16
            assert model.optimizer.nonfinite_steps == 1
            before = state_of(model)
            step(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert not all(map(np.array_equal, before, state_of(model)))


def test_on_one_device():
    model = distloss.prepare(made(), check_sums=True)
    step(model)
    error = raised_by(model, hurt_inputs())
    assert (error.step, error.replicas) == (2, (0,))
    assert "not finite on replica 0 before the sum" in str(error)

"""reduction="mean_of_row_means": every row counts the same, on any split."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from distloss import DistributedLoss, OneDevice, prepare

TOKENS = 4


def expected(values, weights):
    """In NumPy and float64, row by row."""
    means = [
        (w * v).sum() / w.sum()
        for v, w in zip(values.astype("float64"), weights, strict=True)
        if w.sum() > 0
    ]
    return np.mean(means) if means else 0.0


def loss_of_rows(**options):
    return DistributedLoss(
        lambda y, p: (y - p)[..., 0] ** 2, reduction="mean_of_row_means", **options
    )


@given(
    arrays.arrays("float32", (5, TOKENS), elements=st.floats(-3, 3, width=32)),
    arrays.arrays("float32", (5, TOKENS), elements=st.sampled_from([0, 0, 1, 0.5, 3])),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_rows_are_averaged_by_the_weights_of_their_elements(values, weights, masked):
    y_pred = tf.constant(values[..., np.newaxis])
    if masked:
        y_pred._keras_mask = tf.constant(weights > 0)
        weights = (weights > 0).astype("float32")
    loss = loss_of_rows(replicas=OneDevice())(
        tf.zeros_like(y_pred), y_pred, None if masked else weights
    )
    assert float(loss) == pytest.approx(expected(values**2, weights), rel=1e-5)


def sentences():
    rng = np.random.default_rng(8)
    words = rng.integers(1, 7, (21, TOKENS))
    lengths = rng.integers(0, TOKENS + 1, 21)  # some rows have no token
    words = np.where(np.arange(TOKENS) < lengths[:, np.newaxis], words, 0)
    return words, rng.normal(size=(21, TOKENS, 1)).astype("float32")


def model_of(loss):
    keras.utils.set_random_seed(4)
    words = keras.Input((TOKENS,), dtype="int32")
    embedded = keras.layers.Embedding(7, 3, mask_zero=True)(words)
    model = keras.Model(words, keras.layers.Dense(1)(embedded))
    model.compile(keras.optimizers.SGD(0.5), loss)
    return model


def trained_by_hand():
    """Each step in plain TensorFlow on the whole batch; losses are weighed by rows."""
    model, (words, targets), losses = model_of("mse"), sentences(), []
    for first in range(0, 21, 8):
        x, y = words[first : first + 8], targets[first : first + 8]
        weights = (x > 0).astype("float32")
        has = weights.sum(1) > 0
        with tf.GradientTape() as tape:
            values = (model(x) - y)[..., 0] ** 2
            rows = tf.reduce_sum(weights * values, 1) / np.maximum(weights.sum(1), 1)
            loss = tf.reduce_sum(rows * has) / has.sum()
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(
            model.trainable_variables, gradients, strict=True
        ):
            variable.assign_sub(0.5 * tf.convert_to_tensor(gradient))
        losses.append((float(loss), len(x)))
    values, rows = zip(*losses, strict=True)
    return model.get_weights(), np.average(values, weights=rows)


@pytest.mark.parametrize(
    ("kind", "parts"), [("none", 1), ("none", 3), ("mirrored", 1), ("mirrored", 2)]
)
def test_a_model_trains_by_it_on_any_split(kind, parts):
    weights, loss = trained_by_hand()
    with strategy_of(kind).scope():
        model = model_of(loss_of_rows())
    prepare(model, microbatches=parts)
    data = tf.data.Dataset.from_tensor_slices(sentences()).batch(8)
    history = model.fit(data, shuffle=False, verbose=0).history["loss"]
    for got, wanted in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert history == [pytest.approx(loss, rel=1e-5)]


def test_a_fixed_batch_counts_its_rows():
    loss = loss_of_rows(global_batch_size=10)
    values = tf.constant([[[1.0], [3.0]], [[2.0], [2.0]]])
    assert float(loss(tf.zeros_like(values), values)) == pytest.approx((5 + 4) / 10)


def test_it_is_saved():
    loss = DistributedLoss("mse", reduction="mean_of_row_means")
    again = DistributedLoss.from_config(loss.get_config())
    assert again.global_reduction == "mean_of_row_means"

"""In one process gradients are those of shares at once, and nobody reads them again.

What is expected comes from plain Keras: the numbers of one device, and how many
operations a step has.
"""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import since_keras
from conftest import strategy_of
from keras import layers

from distloss import prepare

RNG = np.random.default_rng(4)
ROWS, BATCH = 30, 13  # of four replicas the last gets one row, or none
X = RNG.normal(size=(ROWS, 2)).astype("float32")
Y = RNG.normal(size=(ROWS, 1)).astype("float32")
WEIGHT = RNG.uniform(0.5, 2, ROWS).astype("float32")
WEIGHT[:4] = 0  # all rows of the first replica, and of its first part
BY_WEIGHT = "mean_with_sample_weight"
LIMIT = 0.05
NO_LIMIT = 1e9
pytestmark = [since_keras(3, 8), pytest.mark.as_users_run]


@keras.saving.register_keras_serializable("tests")
class ClipsBackwards(layers.Layer):
    """Hands back gradients of activations that are clipped, which is not linear."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def call(self, inputs):
        @tf.custom_gradient
        def clipped(values):
            limit = self.limit
            return tf.identity(values), lambda g: tf.clip_by_value(g, -limit, limit)

        return clipped(inputs)


def trained(prepared, limit, weights=None, **options):
    keras.utils.set_random_seed(3)
    with strategy_of("mirrored" if prepared else "none").scope():
        hidden = [layers.Dense(3, "tanh"), ClipsBackwards(limit), layers.Dense(1)]
        model = keras.Sequential([keras.Input((2,)), *hidden])
        reduction = "sum_over_batch_size" if weights is None else BY_WEIGHT
        model.compile("sgd", keras.losses.MeanSquaredError(reduction))
        if prepared:
            prepare(model, **options)
    rows = tf.data.Dataset.from_tensor_slices(
        (X, Y) if weights is None else (X, Y, weights)
    )
    model.fit(rows.batch(BATCH), epochs=3, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(array) for array in model.get_weights()])


@pytest.mark.parametrize("weights", [None, WEIGHT])
@pytest.mark.slow
def test_the_backward_pass_has_the_numbers_of_one_device(weights):
    """Not those of a mean over a replica's own rows, of which some have fewer."""
    one_device = trained(False, LIMIT, weights)
    assert np.abs(one_device - trained(False, NO_LIMIT, weights)).max() > 1e-3
    np.testing.assert_allclose(
        trained(True, LIMIT, weights), one_device, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("microbatches", [2, 5])
@pytest.mark.slow
def test_parts_that_begin_without_weight_train_as_one_device(microbatches):
    ours = trained(True, NO_LIMIT, WEIGHT, microbatches=microbatches)
    one_device = trained(False, NO_LIMIT, WEIGHT)
    np.testing.assert_allclose(ours, one_device, rtol=0, atol=1e-6)


def in_16_bits(dtype):
    """Two layers of which the gradients of sums of thousands of rows leave float16."""
    keras.utils.set_random_seed(3)
    hidden = layers.Dense(16, "relu", dtype=dtype)
    model = keras.Sequential(
        [keras.Input((4,)), hidden, layers.Dense(1, dtype="float32")]
    )
    loss = keras.losses.MeanSquaredError(BY_WEIGHT)
    model.compile(keras.optimizers.SGD(1e-3), loss)
    return model


@pytest.mark.parametrize("dtype", ["mixed_float16", "float32"])
def test_parts_of_other_weights_than_the_first_keep_the_range_of_a_mean(dtype):
    rows = 16_384
    x = RNG.normal(1, 1, (rows, 4)).astype("float32")
    y = np.full((rows, 1), 60, "float32")
    weight = np.r_[1.0, np.zeros(rows // 2 - 1), np.ones(rows // 2)].astype("float32")
    trained = []
    for parts in (1, 2):
        model = prepare(in_16_bits(dtype), microbatches=parts)
        data = {"sample_weight": weight, "batch_size": rows, "shuffle": False}
        model.fit(x, y, verbose=0, **data)
        trained.append(np.concatenate([np.ravel(w) for w in model.get_weights()]))
    assert np.isfinite(trained).all()
    np.testing.assert_allclose(*trained, rtol=0, atol=2e-3 if "16" in dtype else 1e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.slow
def test_what_an_optimizer_gets_of_16_bits_is_in_float32(microbatches):
    found = []

    class Notes(keras.optimizers.SGD):
        def apply_gradients(self, grads_and_vars):
            pairs = list(grads_and_vars)
            found.extend(gradient.dtype for gradient, _ in pairs)
            return super().apply_gradients(pairs)

    with strategy_of("mirrored").scope():
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1, dtype="bfloat16")])
        model.compile(Notes(0.1), "mse")
        prepare(model, microbatches=microbatches)
    model.fit(X, Y, batch_size=16, epochs=1, verbose=0)
    assert set(found) == {tf.float32}


@keras.saving.register_keras_serializable("tests")
class WithItsOwnStep(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y))
        weights = self.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return {"loss": loss}


def operations(rows, kind=keras.Sequential, **options):
    """Of a step, by type, those that give something of the shape of a kernel.

    Args:
      rows: of a batch on each replica; None where that is open.
      kind: of model.
      options: of `prepare`; without any it is plain Keras.
    """
    strategy = strategy_of("mirrored")
    batch = tf.ones((4, 5)), tf.ones((4, 3))
    with strategy.scope():
        model = kind([keras.Input((5,)), layers.Dense(7), layers.Dense(3)])
        model.compile("sgd", "mse")
        if options:
            prepare(model, **options)
        model._symbolic_build(data_batch=batch)
    like = [tf.TensorSpec((rows, *part.shape[1:])) for part in batch]

    @tf.function(autograph=False, input_signature=like)
    def step(*batch):
        strategy.run(model.train_step, (batch,))

    graph = step.get_concrete_function().graph
    bodies = [graph, *(function.graph for function in graph._functions.values())]
    return collections.Counter(
        operation.type
        for body in bodies
        for operation in body.get_operations()
        if operation.type in {"Mul", "MulNoNan", "RealDiv", "DivNoNan", "SelectV2"}
        and operation.outputs[0].shape == (5, 7)
    )


@pytest.mark.parametrize("rows", [4, None])
def test_no_gradient_is_multiplied_that_is_not_in_plain_keras(rows):
    plain = operations(rows)
    assert plain  # the learning rate
    assert operations(rows, microbatches=1) == plain


def test_the_gradients_of_parts_are_weighed_once_and_divided_once():
    more = operations(None, microbatches=3) - operations(None)
    replicas = strategy_of("mirrored").num_replicas_in_sync
    assert more == {"MulNoNan": replicas, "Mul": replicas}


def test_the_gradients_of_a_step_of_ones_own_are_weighed_once():
    more = operations(None, WithItsOwnStep, microbatches=1) - operations(
        None, WithItsOwnStep
    )
    assert more == {"MulNoNan": strategy_of("mirrored").num_replicas_in_sync}

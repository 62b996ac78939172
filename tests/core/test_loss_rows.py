"""Rows whose number is open in targets or predictions, and losses that lost them."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

import distloss
from distloss import DistlossError, DistributedLoss, DistributedOptimizer

RNG = np.random.default_rng(4)
ROWS, CLASSES = 8, 3
SHAPES = [
    ([ROWS, CLASSES], [None, CLASSES]),
    ([None, CLASSES], [ROWS, CLASSES]),
    ([ROWS, ROWS], [None, ROWS]),  # as many classes as rows
    ([ROWS], [None, 1]),
    ([None], [ROWS, 1]),
    ([1, 1], [None, 1]),
    ([ROWS, 2, CLASSES], [None, 2, CLASSES]),
    ([ROWS, 2, CLASSES], [None, None, CLASSES]),
]


def over_axis_0(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred), 0)


def reshaped_mean(y_true, y_pred):
    return tf.reshape(tf.reduce_mean(y_true - y_pred), [1])


def flat(y_true, y_pred):
    return tf.reshape(tf.square(y_true - y_pred), [-1])


def filled(shape, default):
    """Numbers of `shape`, with `default` rows and tokens where it is open."""
    sizes = itertools.zip_longest(shape, default[: len(shape)])
    whole = [known or other for known, other in sizes]
    return RNG.normal(size=whole).astype("float32")


@pytest.mark.parametrize(("true", "predicted"), SHAPES)
@pytest.mark.parametrize("weighs", [True, False])
def test_rows_may_be_open_on_one_side(true, predicted, weighs):
    bare = keras.losses.MeanSquaredError()
    specs = [tf.TensorSpec(true), tf.TensorSpec(predicted)]
    y_true = filled(true, predicted)
    y_pred = filled(predicted, true)
    weight = np.arange(1.0, len(y_true) + 1).astype("float32")
    if len(true) == 3:
        weight = weight[:, np.newaxis]
    weight = weight if weighs else None
    traced = tf.function(
        lambda y_true, y_pred: DistributedLoss(bare)(y_true, y_pred, weight),
        input_signature=specs,
    )
    wanted = bare(y_true, y_pred, weight)
    np.testing.assert_allclose(traced(y_true, y_pred), wanted, rtol=1e-6)


def test_values_of_each_class_or_token_may_follow_each_other():
    specs = [tf.TensorSpec([ROWS, CLASSES]), tf.TensorSpec([None, CLASSES])]
    traced = tf.function(DistributedLoss(flat), input_signature=specs)
    y_true, y_pred = RNG.normal(size=(2, ROWS, CLASSES)).astype("float32")
    wanted = np.square(y_true - y_pred).mean()
    np.testing.assert_allclose(traced(y_true, y_pred), wanted, rtol=1e-6)


@pytest.mark.parametrize("loss", [over_axis_0, reshaped_mean])
@pytest.mark.parametrize("classes", [CLASSES, ROWS, 2 * ROWS])
@pytest.mark.parametrize("rows", [ROWS, None])
def test_a_loss_that_lost_its_rows_is_refused(loss, classes, rows):
    """Also where as many values are left as there are rows."""
    specs = [tf.TensorSpec([rows, classes]), tf.TensorSpec([None, classes])]
    traced = tf.function(DistributedLoss(loss), input_signature=specs)
    with pytest.raises(DistlossError, match="without the rows"):
        traced.get_concrete_function()


class Kept(keras.layers.Layer):
    """All rows, of which TensorFlow does not know how many there are."""

    def call(self, x):
        return tf.boolean_mask(x, tf.reduce_all(tf.equal(x, x), 1))

    def compute_output_shape(self, shape):
        return (None, *shape[1:])


TEXTS = ["a b", "b", "c a a", "d", "a d c b", "c", "b b", "d d a"] * 3
X = RNG.normal(size=(24, 2)).astype("float32")
Y = (X**2 + np.arange(24)[:, np.newaxis] / 9).astype("float32")


def with_open_rows():
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input([2]), Kept(), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, X


def of_texts():
    keras.utils.set_random_seed(3)
    vectors = keras.layers.TextVectorization(
        vocabulary=["a", "b", "c", "d"],
        output_sequence_length=4,  # else as long as the longest text of a replica
    )
    hidden = [keras.layers.Embedding(9, 4), keras.layers.GlobalAveragePooling1D()]
    inputs = keras.Input([1], dtype="string")
    model = keras.Sequential([inputs, vectors, *hidden, keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model, np.array(TEXTS)[:, np.newaxis]


def fitted(build, prepare, strategy):
    """Weights and history of three epochs of batches of 8, known to be 8."""
    with strategy.scope():
        model, x = build()
        prepare(model)
    data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(8, drop_remainder=True)
    history = model.fit(data, epochs=3, shuffle=False, verbose=0).history["loss"]
    return [*model.get_weights(), np.array(history)]


def wrap(model):
    model.compile(DistributedOptimizer(model.optimizer), DistributedLoss("mse"))


@pytest.mark.parametrize(
    ("build", "prepare", "kind"),
    [
        (with_open_rows, distloss.prepare, "none"),
        (with_open_rows, distloss.prepare, "mirrored"),
        (with_open_rows, wrap, "mirrored"),
        (of_texts, wrap, "none"),
        (of_texts, distloss.prepare, "mirrored"),  # Keras alone adds up the texts
    ],
)
def test_fit_trains_as_plain_keras_on_one_device(build, prepare, kind):
    wanted = fitted(build, lambda model: None, strategy_of("none"))
    got = fitted(build, prepare, strategy_of(kind))
    for ours, plain in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_a_loop_of_ones_own_trains_as_one_device(four):
    """Open rows in the predictions of each replica, 1 to 3 static ones in targets."""
    sizes = (3, 1, 2, 2)
    parts = [np.split(array[:8], np.cumsum(sizes)[:-1]) for array in (X, Y)]
    loss = DistributedLoss("mse", reduction="sum_over_batch_size")

    def gradient(x, y, weight):
        with tf.GradientTape() as tape:
            scale = tf.ones([2])
            tape.watch(scale)
            value = loss(y, Kept()(x) * scale, weight)
        return value, tape.gradient(value, scale)

    def of_replica(array):
        return four.experimental_distribute_values_from_function(
            lambda context: tf.constant(array[context.replica_id_in_sync_group])
        )

    weight = np.arange(1.0, 9).astype("float32")
    dealt = [*map(of_replica, parts), of_replica(np.split(weight, np.cumsum(sizes)))]

    @tf.function
    def step(*parts):
        results = four.run(gradient, parts)
        return [four.reduce("SUM", result, axis=None) for result in results]

    x, y, w = X[:8].astype("float64"), Y[:8].astype("float64"), weight[:, np.newaxis]
    wanted = (w * (x - y) ** 2).mean(), (w * (x - y) * x).mean(0)
    for ours, whole in zip(step(*dealt), wanted, strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5)


def summing(kind):
    """A function that sums over replicas."""
    if kind == "loss":
        loss = DistributedLoss("mse")
        return lambda: loss(tf.zeros([2, 1]), tf.ones([2, 1]))
    if kind == "mean_share":
        return lambda: distloss.mean_share(tf.ones([2]))
    variable = keras.Variable(1.0)
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.1))
    optimizer.build([variable])
    return lambda: optimizer.apply([tf.constant(1.0)], [variable])


def in_tf_function(function):
    return tf.function(function)()


def in_compiled_function(function):
    return tf.function(function, jit_compile=True)()


def in_tf_cond(function):
    def branch():
        function()
        return 1.0

    return tf.cond(tf.random.uniform([]) < 2, branch, lambda: 0.0)


@pytest.mark.parametrize("kind", ["loss", "mean_share", "optimizer"])
@pytest.mark.parametrize("inner", [in_tf_function, in_compiled_function, in_tf_cond])
def test_sums_in_a_graph_inside_the_replica_function_are_refused(four, kind, inner):
    with four.scope():
        function = summing(kind)
    outer = tf.function(lambda: four.run(inner, (function,)))
    with pytest.raises(DistlossError, match=r"Take @tf\.function") as caught:
        outer()
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("kind", ["loss", "mean_share", "optimizer"])
def test_the_way_out_that_the_message_names_works(four, kind):
    with four.scope():
        function = summing(kind)
    tf.function(lambda: four.run(function))()

"""Models of shapes that a prepared step must not mind, against one device."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import fresh
from chosen import some
from conftest import strategy_of
from keras import layers

from distloss import prepare
from distloss._errors import ArgumentError, ContextError

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(5)
X = RNG.normal(size=(10, 4)).astype("float32")
Y = RNG.normal(size=(10, 1)).astype("float32") * 3
BATCH = 8  # on three 3, 3, 2; then 2: a short batch, and a replica without rows


def scope_of(replicas):
    if replicas == 1:
        return contextlib.nullcontext()
    return strategy_of("mirrored", replicas).scope()


def trained(build, data, *, replicas, parts=1, prepared=True, **fit):
    """Weights, moving averages and history after an epoch; the first weights too."""
    keras.utils.set_random_seed(3)
    with scope_of(replicas):
        model = build()
    before = [v.numpy() for v in model.trainable_variables]
    if prepared:
        prepare(model, microbatches=parts)
    options = {"batch_size": BATCH, "epochs": 1, "shuffle": False, "verbose": 0}
    history = model.fit(*data, **options, **fit).history
    return before, model, history


def assert_as_one_device(build, x, y, *, ways, names=None, **fit):
    before, one, wanted = trained(build, (x, y), replicas=1, prepared=False, **fit)
    weights = [v.numpy() for v in one.trainable_variables]
    moved = [np.linalg.norm(w - b) for w, b in zip(weights, before, strict=True)]
    assert max(moved) > 0
    for replicas, parts in ways:
        _, many, history = trained(build, (x, y), replicas=replicas, parts=parts, **fit)
        for variable, weight in zip(many.trainable_variables, weights, strict=True):
            apart = np.linalg.norm(variable.numpy() - weight)
            assert apart <= 1e-5 * max(moved), (replicas, parts, variable.path)
        assert history.keys() == wanted.keys()
        for name in names or wanted:
            np.testing.assert_allclose(history[name], wanted[name], 1e-5, err_msg=name)
    return one, many


# How many replicas take a batch, each in how many parts.
WAYS = some([(3, 2), (1, 2), (2, 1), (4, 1)], 2)


def two_outputs(loss="mse", **compile_arguments):
    inputs = keras.Input((4,))
    first = layers.Dense(1, name="a")(inputs)
    second = layers.Reshape((5, 2), name="b")(layers.Dense(10)(inputs))
    model = keras.Model(inputs, [first, second])
    model.compile(keras.optimizers.SGD(0.1), loss, **compile_arguments)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"loss": keras.losses.MeanSquaredError(reduction="sum")},
        {"loss": {"a": "mse", "b": "mae"}, "loss_weights": {"a": 2.0, "b": 0.5}},
    ],
    ids=["one_for_both", "sum", "each_its_own"],
)
def test_losses_of_several_outputs(arguments):
    targets = (Y, RNG.normal(size=(10, 5, 2)).astype("float32"))
    assert_as_one_device(lambda: two_outputs(**arguments), X, targets, ways=WAYS)


def test_one_loss_of_two_outputs_with_weights_of_each():
    """Two denominators: a single one is 27 % off here."""
    weights = (
        np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 2], "float32"),
        np.array([5, 5, 5, 5, 5, 5, 5, 0, 9, 9], "float32"),
    )

    def build():
        inputs = keras.Input((4,))
        outputs = [layers.Dense(1, name=name)(inputs) for name in "ab"]
        model = keras.Model(inputs, outputs)
        loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        model.compile(keras.optimizers.SGD(0.1), loss)
        return model

    targets = (Y, 2 * Y)
    assert_as_one_device(build, X, targets, sample_weight=weights, ways=WAYS)


def test_an_output_without_a_loss():
    def build():
        inputs = keras.Input((4,))
        first = layers.Dense(1)(inputs)
        model = keras.Model(inputs, [first, layers.Reshape((1, 1))(first)])
        model.compile(keras.optimizers.SGD(0.1), ["mse", None])
        return model

    assert_as_one_device(build, X, (Y, Y[:, None]), ways=WAYS)


def test_several_losses_of_one_output():
    """Of which Keras optimises one, and reports 0 for each."""

    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), ["mse", "mae"])
        return model

    assert_as_one_device(build, X, Y, ways=WAYS, names=["loss"])


@pytest.mark.parametrize(
    "reduction", ["mean_with_sample_weight", "sum_over_batch_size", "sum"]
)
def test_a_batch_of_no_weight_keeps_its_regularisers(reduction):
    def build():
        dense = layers.Dense(1, kernel_regularizer="l2", bias_regularizer="l1")
        model = keras.Sequential([keras.Input((4,)), dense])
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        model.compile(keras.optimizers.SGD(0.5), loss)
        return model

    weights = np.zeros(10, "float32")
    assert_as_one_device(build, X, Y, sample_weight=weights, ways=WAYS)


def test_a_batch_that_is_all_masked_keeps_its_regularisers():
    def build():
        embedding = layers.Embedding(5, 3, mask_zero=True)
        dense = layers.Dense(2, kernel_regularizer="l2")
        model = keras.Sequential([keras.Input((4,), dtype="int32"), embedding, dense])
        model.compile(keras.optimizers.SGD(0.5), "mse")
        return model

    targets = RNG.normal(size=(10, 4, 2)).astype("float32")
    assert_as_one_device(build, np.zeros((10, 4), "int32"), targets, ways=WAYS)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_float16_layers_without_a_loss_scale_keep_the_range_of_a_mean(policy):
    """Sums of 2,048 losses of about 3,600 exceed float16; their mean does not."""
    rows = 2048
    x = RNG.normal(size=(rows, 4)).astype("float32") + 1
    y = (RNG.normal(size=(rows, 1)) * 3 + 60).astype("float32")

    def build():
        hidden = layers.Dense(16, "relu", dtype=policy)
        last = layers.Dense(1, dtype="float32")
        model = keras.Sequential([keras.Input((4,)), hidden, last])
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        return model

    _, one, _ = trained(build, (x, y), replicas=1, prepared=False)
    for replicas, parts in WAYS:
        before, many, history = trained(build, (x, y), replicas=replicas, parts=parts)
        assert np.isfinite(history["loss"]).all()
        for w, first, o in zip(
            many.trainable_variables, before, one.trainable_variables, strict=True
        ):
            moved = np.linalg.norm(np.float64(o.numpy()) - first)
            apart = np.linalg.norm(np.float64(w.numpy()) - o.numpy())
            # float16 rounds the weights themselves
            eps = 2.0**-10 * np.linalg.norm(np.float64(first))
            assert apart <= 2e-2 * moved + eps, (replicas, parts, w.path)


class Adds(layers.Layer):
    """Adds a loss of one kind, with a trainable number."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def build(self, shape):
        self.beta = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        square = keras.ops.square(x) * self.beta
        if self.kind == "mean":
            self.add_loss(keras.ops.mean(square))
        elif self.kind == "mean_of_features":
            self.add_loss(keras.ops.mean(square, axis=0))
        elif self.kind == "rows":
            self.add_loss(keras.ops.mean(square, axis=1))
        elif self.kind == "tokens":
            self.add_loss(square)
        else:
            self.add_loss(keras.ops.square(self.beta) * 0.1)  # a vector of weights
        return x


def adding(*kinds):
    def build():
        added = [layer for kind in kinds for layer in (layers.Dense(4), Adds(kind))]
        model = keras.Sequential([keras.Input((4,)), *added, layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1e-2), "mse")
        return model

    return build


@pytest.mark.parametrize(
    "kinds",
    some(
        [
            ["rows", "mean", "weights"],
            ["mean"],
            ["mean_of_features"],
            ["rows"],
            ["tokens"],
            ["weights"],
        ],
        2,
    ),
    ids=str,
)
def test_added_losses_of_each_kind_and_replicas_without_rows(kinds):
    assert_as_one_device(adding(*kinds), X, Y, ways=WAYS)


def test_added_losses_of_rows_where_their_number_is_known(four):
    """4 rows and 4 weights: only where a loss comes from tells the two apart."""
    x, y = X[:8], Y[:8]
    for kind in ("rows", "weights"):
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)
        results = []
        for replicas in (1, 2):
            keras.utils.set_random_seed(3)
            with scope_of(replicas):
                model = adding(kind)()
            if replicas > 1:
                prepare(model)
            model.fit(data, shuffle=False, verbose=0)
            results.append([v.numpy() for v in model.trainable_variables])
        for one, two in zip(*results, strict=True):
            np.testing.assert_allclose(two, one, 1e-5, 1e-6)


def test_an_added_loss_alone():
    def build():
        layer = layers.Dense(2, activity_regularizer="l2")
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile(keras.optimizers.SGD(0.1))
        return model

    assert_as_one_device(build, X, None, ways=[(2, 1), (4, 1)])


def test_added_losses_around_a_synchronised_normalization():
    """Whose collective lets another replica begin, with an empty list of losses."""

    def build(synchronized):
        first = layers.Dense(8, activity_regularizer=keras.regularizers.L2(1.0))
        second = layers.Dense(8, activity_regularizer=keras.regularizers.L2(0.1))
        model = keras.Sequential(
            [
                keras.Input((4,)),
                first,
                layers.BatchNormalization(synchronized=synchronized),
                second,
                layers.BatchNormalization(synchronized=synchronized),
                layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.SGD(1e-2), "mse")
        return model

    _, one, wanted = trained(lambda: build(False), (X, Y), replicas=1, prepared=False)
    for replicas in (2, 4):  # with replicas without rows
        _, many, history = trained(lambda: build(True), (X, Y), replicas=replicas)
        np.testing.assert_allclose(history["loss"], wanted["loss"], 1e-5)
        for variable, weight in zip(many.weights, one.weights, strict=True):
            np.testing.assert_allclose(
                variable.numpy(), weight.numpy(), 1e-4, 1e-5, err_msg=variable.path
            )


def test_losses_of_outputs_where_a_replica_has_known_no_rows():
    """Eagerly Keras weighs them by rows, of which such a replica has none."""
    dealt = [[4, 0], [1, 5]]  # rows of each replica, of two batches

    def run(strategy, pieces):
        keras.utils.set_random_seed(3)
        with strategy.scope():
            inputs = keras.Input((4,))
            outputs = [layers.Dense(1, name=name)(inputs) for name in "ab"]
            model = keras.Model(inputs, outputs)
            model.compile("sgd", ["mse", "mae"], run_eagerly=True)
        prepare(model)
        ends = np.cumsum(pieces)
        cuts = [slice(end - n, end) for end, n in zip(ends, pieces, strict=True)]
        specs = tf.TensorSpec([None, 4]), (tf.TensorSpec([None, 1]),) * 2
        data = tf.data.Dataset.from_generator(
            lambda: (fresh((X[cut], (Y[cut], -Y[cut]))) for cut in cuts),
            output_signature=specs,
        )
        if len(pieces) > len(dealt):
            data = strategy.distribute_datasets_from_function(lambda _: data)
        fitted = model.fit(data, shuffle=False, verbose=0).history
        return {**fitted, "evaluated": model.evaluate(data, verbose=0)}

    wanted = run(strategy_of("none"), [sum(rows) for rows in dealt])
    found = run(strategy_of("mirrored", 2), [n for rows in dealt for n in rows])
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, 1e-5, err_msg=name)


def test_a_synchronised_normalization_of_masked_elements():
    """Keras takes the statistics of one replica as soon as there is a mask."""
    x = np.repeat(X[:, np.newaxis], 3, 1) * [[1], [2], [-1]]
    x[1:4, 1:] = x[2] = x[8, 0] = 0  # masked: all of a row, and of a replica

    def build(synchronized, axis=-1):
        model = keras.Sequential(
            [
                keras.Input((3, 4)),
                layers.Masking(),
                layers.BatchNormalization(axis, synchronized=synchronized),
                layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.SGD(1e-2), "mse")
        return model

    y = np.repeat(Y[:, np.newaxis], 3, 1)
    for axis in (-1, 1):
        _, one, wanted = trained(
            lambda axis=axis: build(False, axis), (x, y), replicas=1, prepared=False
        )
        for replicas in (2, 4):  # with replicas without rows
            build_many = lambda axis=axis: build(True, axis)  # noqa: E731
            _, many, history = trained(build_many, (x, y), replicas=replicas)
            np.testing.assert_allclose(history["loss"], wanted["loss"], 1e-5)
            for variable, weight in zip(many.weights, one.weights, strict=True):
                np.testing.assert_allclose(
                    variable.numpy(), weight.numpy(), 1e-4, 1e-5, err_msg=variable.path
                )


def test_moving_averages_do_not_hear_of_a_replica_without_rows():
    """2 rows on 4 replicas: those of a replica without rows say what they said."""

    def build():
        model = keras.Sequential(
            [keras.Input((4,)), layers.BatchNormalization(momentum=0.5)]
        )
        model.add(layers.Dense(1))
        model.compile(keras.optimizers.SGD(1e-2), "mse")
        return model

    _, model, history = trained(build, (X[:2], Y[:2]), replicas=4)
    # each of two replicas moves half way to its row, the others not at all
    average = model.layers[0].moving_mean.value
    own = strategy_of("mirrored").experimental_local_results(average)
    means = [X[0] / 2, X[1] / 2, np.zeros(4), np.zeros(4)]
    np.testing.assert_allclose(np.stack(own), means, 1e-5)
    assert all(np.isfinite(v.numpy()).all() for v in model.weights)
    assert np.isfinite(history["loss"]).all()


def test_convolutions_of_a_replica_without_rows():
    x = RNG.normal(size=(9, 8, 8, 1)).astype("float32")
    y = RNG.integers(0, 3, 9)

    def build():
        convolution = layers.Conv2D(6, 3, activation="relu")
        depthwise = layers.DepthwiseConv2D(3)
        model = keras.Sequential([keras.Input((8, 8, 1)), convolution, depthwise])
        model.add(layers.MaxPooling2D())
        model.add(layers.Flatten())
        model.add(layers.Dense(3))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
        return model

    ways = [(4, 2), (4, 1)]
    one, many = assert_as_one_device(build, x, y, ways=ways, validation_data=(x, y))
    wanted = one.predict(x, batch_size=8, verbose=0)
    np.testing.assert_allclose(
        many.predict(x, batch_size=8, verbose=0), wanted, 1e-5, 1e-6
    )


@pytest.mark.parametrize("softmax", ["softmax", tf.nn.softmax], ids=["keras", "tf"])
def test_sure_and_wrong_probabilities(softmax):
    """Of which Keras finds the logits: of the probabilities, no loss exceeds 16."""
    x, y = 30 * X, RNG.integers(0, 3, 10)

    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3, softmax)])
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.SGD(1e-3), loss, metrics=[loss])
        return model

    assert_as_one_device(build, x, y, ways=WAYS, validation_data=(x, y))


def within(y_true, y_pred):
    """A metric that is one number for a batch."""
    return keras.ops.mean(keras.ops.cast(keras.ops.abs(y_true - y_pred) < 2, "float32"))


@pytest.mark.parametrize("parts", [1, 2])
def test_metric_functions_that_return_one_number(parts):
    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=[within, "mae"])
        return model

    ways = some([(4, parts), (1, parts), (2, parts)], 3)
    assert_as_one_device(build, X, Y, ways=ways, validation_data=(X, Y))


class Logs(keras.callbacks.Callback):
    """What is logged after each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(dict(logs))

    on_test_batch_end = on_train_batch_end


@pytest.mark.parametrize("parts", [1, 2])
def test_logs_of_batches_are_those_of_one_device(parts):
    """An epoch of one batch, of which two of four replicas have nothing."""

    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae", within])
        return model

    seen = []
    for replicas in (1, 4):
        logs = Logs()
        options = {"callbacks": [logs], "validation_data": (X[:5], Y[:5])}
        trained(build, (X[:2], Y[:2]), replicas=replicas, parts=parts, **options)
        seen.append(logs.seen)
    assert len(seen[0]) == 2
    for one, many in zip(*seen, strict=True):
        assert one.keys() == many.keys()
        for name in one:
            np.testing.assert_allclose(many[name], one[name], 1e-5, err_msg=name)


def test_evaluation_of_a_model_that_was_compiled_again_is_refused():
    _, model, _ = trained(adding("mean"), (X, Y), replicas=2)
    with strategy_of("mirrored", 2).scope():
        model.compile("sgd", "mse")
    with pytest.raises(ContextError, match="compiled again"):
        model.evaluate(X, Y, verbose=0)


def test_a_refused_model_stays_as_it_was():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    before = dict(vars(model))
    with pytest.raises(ArgumentError, match="gradient_accumulation_steps=2"):
        prepare(model)
    assert vars(model) == before


def test_synchronised_layers_and_parts_are_refused_by_name(four):
    with four.scope():
        layer = layers.BatchNormalization(synchronized=True, name="all_see")
        model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(1)])
        model.compile("sgd", "mse")
    with pytest.raises(ArgumentError, match=r"'all_see'.*4 replicas.*microbatches=1"):
        prepare(model, microbatches=2)
    assert prepare(model) is model


def test_a_step_that_xla_cannot_compile_is_refused(four):
    with four.scope():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(ArgumentError, match=r"jit_compile=True on 4 replicas\. Leave"):
        prepare(model)


def batches(count):
    for start in range(count):
        yield X[start : start + 4] + start, Y[start : start + 4]


def test_a_generator_is_not_looked_into():
    """Plain Keras takes batches from it before the first step, and trains on 1 of 3."""

    def build():
        model = keras.Sequential([layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    results = []
    for replicas in (1, 2):
        keras.utils.set_random_seed(3)
        with scope_of(replicas):
            model = build()
        if replicas > 1:
            prepare(model)
        model.fit(batches(3), shuffle=False, verbose=0)
        results.append([v.numpy() for v in model.trainable_variables])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(two, one, 1e-5, 1e-6)


def test_a_data_set_of_nothing_is_refused(four):
    with four.scope():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        model.compile("sgd", "mse")
    prepare(model)
    nothing = tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(4)
    for method, options in ((model.fit, {"shuffle": False}), (model.evaluate, {})):
        with pytest.raises(ArgumentError, match="at least one batch"):
            method(nothing, verbose=0, **options)


class Slices(keras.utils.PyDataset):
    """Batches that are slices of arrays, fetched ahead by threads."""

    def __init__(self, x, y):
        super().__init__(workers=2)
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        at = slice(4 * index, 4 * index + 4)
        return self.x[at], self.y[at]


def test_arrays_of_which_batches_are_slices_stay_as_they_are():
    """TensorFlow computes the loss in their memory, on two replicas of plain Keras."""

    def build():
        model = keras.Sequential([layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    histories = []
    for replicas in (1, 2):
        keras.utils.set_random_seed(3)
        with scope_of(replicas):
            model = build()
        x, y = X.copy(), Y.copy()
        data = Slices(x, y)
        history = prepare(model).fit(data, epochs=3, shuffle=False, verbose=0)
        histories.append(history.history["loss"])
        np.testing.assert_array_equal(y, Y)
        np.testing.assert_array_equal(x, X)
    np.testing.assert_allclose(histories[1], histories[0], 1e-5)

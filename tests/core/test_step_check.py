"""StepCheck: what it says of right and wrong steps, and that it leaves no trace."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of

from distloss import DistlossError, check_step, mean_share, prepare
from distloss._check.runs import on_one_device
from distloss.callbacks import StepCheck

pytestmark = pytest.mark.slow

ROWS = 13
random = np.random.default_rng(4)
X = (random.normal(size=[ROWS, 3]) * np.linspace(0.5, 2, ROWS)[:, None]).astype("f4")
Y = X.sum(-1, keepdims=True) + 1


def mean_of_rows(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


def two():
    return strategy_of("mirrored", 2)


def sgd():
    return keras.optimizers.SGD(0.1)


def adam():
    return keras.optimizers.Adam(0.1)


def built(loss="mse", layers=(), optimizer=sgd, strategy=None, **compiled):
    with (strategy or strategy_of("mirrored")).scope():
        keras.utils.set_random_seed(3)
        start = keras.layers.Dense(4, "tanh")
        layers = [keras.Input([3]), start, *(layer() for layer in layers)]
        model = keras.Sequential([*layers, keras.layers.Dense(1)])
        model.compile(optimizer(), loss, **compiled)
    return model


def fitted(model, *checks, size=12, epochs=1):
    given = {"shuffle": False, "verbose": 0, "epochs": epochs, "batch_size": size}
    return model.fit(X, Y, callbacks=list(checks), **given).history


def test_a_right_step_is_said_to_be_right(capsys):
    check = StepCheck()
    fitted(prepare(built()), check)
    (report,) = check.reports
    assert report.agrees
    assert report.error < 1e-6
    assert report.rows == (3, 3, 3, 3)
    said = "step 1: 4 replicas give the gradient of one device: "
    assert f"distloss: {said}" in capsys.readouterr().out
    assert "apart, float32 allows 7e-05" in str(report)


def test_a_wrong_step_raises_with_its_cause():
    check = StepCheck()
    with pytest.raises(DistlossError, match="alpha = 4") as raised:
        fitted(built(mean_of_rows), check)
    assert "sum-of-means: The gradient is N times too large" in str(raised.value)
    (report,) = check.reports
    assert report.causes == ("sum-of-means",)
    paths = ("dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias")
    assert [v.partition("/")[2] for v in report.variables] == list(paths)


def test_an_uneven_batch_of_a_plain_model():
    """13 rows: of the four replicas one gets one row, where others get four."""
    batches = tf.data.Dataset.from_tensor_slices((X[:12], Y[:12])).batch(12)
    last = tf.data.Dataset.from_tensor_slices((X, Y)).batch(ROWS)
    check = StepCheck(first=2, on_failure="warn")  # plain Keras cannot begin with it
    options = tf.data.Options()
    options.autotune.enabled = False  # whose thread an iterator waits for at its end
    both = batches.concatenate(last).with_options(options)
    with pytest.warns(UserWarning, match="mean-of-means"):
        built().fit(both, verbose=0, shuffle=False, callbacks=[check])
    assert check.reports[0].rows == (4, 4, 4, 1)


def test_an_uneven_batch_of_a_prepared_model():
    check = StepCheck()
    fitted(prepare(built()), check, size=ROWS)
    assert check.reports[0].agrees


def weights_and_history(*checks, spread=1):
    model = prepare(built(optimizer=adam, metrics=["mae"], strategy=two()))
    model.steps_per_execution = spread
    history = fitted(model, *checks, size=4, epochs=2)
    state = [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]
    return state, history


# An epoch has 4 steps, of which the last is of one row; `fit` makes 3 and 1 in a call.
@pytest.mark.parametrize(("spread", "steps"), [(1, [1, 4, 7]), (3, [1, 4, 5])])
def test_training_is_that_without_a_check(spread, steps):
    state, history = weights_and_history(spread=spread)
    check = StepCheck(every=3)
    checked, checked_history = weights_and_history(check, spread=spread)
    assert [report.step for report in check.reports] == steps
    assert all(report.agrees for report in check.reports)
    for got, wanted in zip(checked, state, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert checked_history["mae"] == pytest.approx(history["mae"], rel=1e-5)


class Functions(keras.callbacks.Callback):
    """What makes each step, and how often it was traced."""

    def __init__(self):
        super().__init__()
        self.seen, self.traced = [], 0

    def on_train_begin(self, logs=None):
        step = self.model.train_step

        def counted(data):
            self.traced += 1
            return step(data)

        self.model.train_step = counted
        self.model.make_train_function(force=True)
        self.own = self.model.train_function

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(self.model.train_function is self.own)


def test_steps_that_are_not_checked_are_as_before():
    """The very function, traced no more often for the check of another step."""
    alone = Functions()
    fitted(built(strategy=two()), alone, size=4)
    functions, check = Functions(), StepCheck(first=2)
    model = built(strategy=two())
    fitted(model, check, functions, size=4)
    assert functions.seen == [True, False, True, True]
    assert model.train_function is functions.own
    # by each replica once more for the step that was checked, and once alone
    assert functions.traced == alone.traced + 2 + 1


def test_random_steps_are_not_compared():
    check = StepCheck()
    model = built(layers=[lambda: keras.layers.Dropout(0.5)], strategy=two())
    with pytest.warns(UserWarning, match="it draws random numbers"):
        fitted(model, check)
    assert check.reports[0].agrees is None


def test_one_device_is_that_of_keras_without_replicas():
    model = built(mean_of_rows)
    seen = on_one_device(model.train_step, strategy_of("mirrored"), ((X, Y),))
    alone = built(mean_of_rows, strategy=strategy_of("none"))
    with tf.GradientTape() as tape:
        loss = mean_of_rows(Y, alone(X))
    wanted = tape.gradient(loss, alone.trainable_variables)
    for got, gradient in zip(seen.gradients.values(), wanted, strict=True):
        np.testing.assert_allclose(got, np.ravel(gradient), rtol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_prepared_model_of_tf_keras(microbatches):
    tf_keras = pytest.importorskip("tf_keras")
    with two().scope():
        dense = tf_keras.layers.Dense
        model = tf_keras.Sequential([tf_keras.Input([3]), dense(4), dense(1)])
        model.compile(tf_keras.optimizers.SGD(0.1), "mse")
    check = StepCheck(every=1)
    prepare(model, microbatches=microbatches)
    model.fit(X, Y, ROWS, 2, verbose=0, callbacks=[check])
    assert [report.agrees for report in check.reports] == [True, True]


def test_one_device_takes_a_few_rows_at_a_time():
    seen = []

    class Counts(keras.layers.Layer):
        def call(self, x):
            if tf.distribute.get_strategy().num_replicas_in_sync == 1:
                tf.numpy_function(lambda n: seen.append(int(n)), [tf.shape(x)[0]], [])
            return x

    check = StepCheck(rows=5)
    model = prepare(built(layers=[Counts], strategy=two()))
    fitted(model, check, size=ROWS)
    assert check.reports[0].agrees
    assert [n for n in seen if n] == [4, 4, 5]
    with pytest.raises(DistlossError, match="Expected rows= for a model of Keras 3"):
        fitted(built(strategy=two()), StepCheck(rows=5))


@pytest.mark.parametrize(
    "arguments",
    [{"rows": 0}, {"first": 0}, {"first": "1"}, {"every": 0}, {"on_failure": "stop"}],
)
def test_wrong_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(DistlossError, match=rf"Expected {name}="):
        StepCheck(**arguments)


class Loop:
    """A model, and the step of a loop that trains it."""

    def __init__(self, share, strategy):
        with strategy.scope():
            start = keras.initializers.Constant([[0.3], [-0.2], [0.5]])
            dense = keras.layers.Dense(1, kernel_initializer=start)
            self.model = keras.Sequential([keras.Input([3]), dense])
            self.optimizer = adam()
            self.optimizer.build(self.model.trainable_variables)
        self.share = share

    def step(self, x, y):
        with tf.GradientTape() as tape:
            rows = tf.square(self.model(x, training=True) - y)[:, 0]
            loss = self.share(rows)
        weights = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)


def dealt(strategy, size):
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)
    return next(iter(strategy.experimental_distribute_dataset(rows)))


def test_a_step_of_a_loop_is_checked_and_not_made():
    loop = Loop(mean_share, two())
    before = loop.model.get_weights()
    report = check_step(loop.step, *dealt(two(), ROWS), strategy=two())
    assert report.agrees
    assert report.rows == (7, 6)
    for now, then in zip(loop.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert int(loop.optimizer.iterations.numpy()) == 0


def replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def mean_of_means(rows):
    return tf.reduce_mean(rows) / replicas()


def divided_twice(rows):
    return mean_share(rows) / replicas()


@pytest.mark.parametrize(
    ("share", "size", "cause"),
    [
        (tf.reduce_mean, 12, "sum-of-means"),
        (mean_of_means, ROWS, "mean-of-means"),
        (divided_twice, 12, "divided-twice"),
    ],
)
def test_a_wrong_step_of_a_loop_is_named(share, size, cause):
    loop = Loop(share, two())
    batch = dealt(two(), size)
    with pytest.warns(UserWarning, match=cause):
        report = check_step(loop.step, *batch, strategy=two(), on_failure="warn")
    assert report.causes == (cause,)


def test_a_number_of_replicas_that_a_step_keeps_is_no_fault():
    """One device divides by it, too: which of both is right cannot be told."""
    kept = two().num_replicas_in_sync
    loop = Loop(lambda rows: tf.reduce_mean(rows) / kept, two())
    with pytest.warns(UserWarning, match="divides by a constant of this size"):
        report = check_step(loop.step, *dealt(two(), 12), strategy=two())
    assert report.agrees is None


def test_where_check_step_may_be_called():
    with pytest.raises(DistlossError, match=r"in a tf\.function"):
        tf.function(lambda: check_step(print, strategy=two()))()
    with pytest.raises(DistlossError, match="outside any scope"):
        check_step(print)
    with pytest.raises(DistlossError, match="to be the function"):
        check_step(None)

"""prepare() of models with a step of their own: any split trains as one device does."""

import functools

import keras
import numpy as np
import own_models
import pytest
import tensorflow as tf
from chosen import some
from conftest import few_of, strategy_of
from counted import counted_replicas
from dense_gradients import given_dense
from own_models import KINDS, adam, compiled, sgd, trained

import distloss
from distloss import prepare
from distloss._errors import ArgumentError, ContextError
from distloss._formula.row_weights import RowWeightedContext
from distloss._prepare.chosen_rows import counts_like_rows

pytestmark = pytest.mark.slow


@functools.cache
def on_one_device(kind, optimizer, batch=own_models.BATCH):
    """What plain Keras trains on one device."""
    model = compiled(kind, optimizer)
    if kind is own_models.Minimizes:
        given_dense(model.optimizer)  # for plain Keras clips slices apart
    return trained(model, own_models.dataset(kind, batch))


def on_three(kind, optimizer):
    with few_of("mirrored").scope():
        model = compiled(kind, optimizer)
    return trained(prepare(model))


def off_by(got, wanted):
    """The largest relative difference of weights, and of numbers that were reported."""
    weights = max(
        np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
        for a, b in zip(got[0], wanted[0], strict=True)
    )
    assert got[1].keys() == wanted[1].keys()
    numbers = max(
        np.max(np.abs(np.subtract(got[1][name], wanted[1][name])))
        / np.max(np.abs(wanted[1][name]))
        for name in wanted[1]
    )
    return weights, numbers


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [(kind, sgd) for kind in some(KINDS, 4)]
    + [(kind, adam) for kind in some(KINDS[1:], 5)],
)
def test_a_step_of_its_own_trains_as_on_one_device(kind, optimizer):
    got = on_three(kind, optimizer)
    weights, numbers = off_by(got, on_one_device(kind, optimizer))
    assert weights < 1e-5
    assert numbers < 1e-5


@pytest.mark.parametrize("kind", some(KINDS, 3), ids=lambda kind: kind.__name__)
def test_the_same_unprepared_does_not(kind):
    """How far off plain Keras is; where it does not train at all, that is said."""
    batch = 8  # of even shards first, for others plain Keras cannot add up
    with strategy_of("mirrored", 4).scope():
        model = compiled(kind, sgd)
    try:
        got = trained(model, own_models.dataset(kind, batch))
    except (RuntimeError, AttributeError):  # as it builds the model
        assert kind in (own_models.Diffusion, own_models.Mixup)
        return
    with np.errstate(invalid="ignore"):
        weights, _ = off_by(got, on_one_device(kind, sgd, batch))
    assert not weights < 1e-2  # NaN among them


def on(strategy, kind=own_models.Autoencoder, **options):
    with few_of(strategy).scope():
        keras.utils.set_random_seed(5)
        model = kind()
        model.compile(adam(), **options)
    return prepare(model)


@pytest.mark.parametrize("strategy", ["none", "one_device", "collective"])
def test_on_other_strategies(strategy):
    got = trained(on(strategy))
    assert max(off_by(got, on_one_device(own_models.Autoencoder, adam))) < 1e-5


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("mirrored", {"run_eagerly": True}),
        ("mirrored", {"steps_per_execution": 3}),
        ("none", {"jit_compile": True}),
    ],
)
def test_with_options_of_compile(strategy, options):
    got = trained(on(strategy, **options))
    assert max(off_by(got, on_one_device(own_models.Autoencoder, adam))) < 1e-5


class Scaled(own_models.Siamese):
    """A step that scales its loss, as mixed precision needs it."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            anchor, positive, negative = (self.net(x) for x in data)
            near = keras.ops.sum(keras.ops.square(anchor - positive), -1)
            far = keras.ops.sum(keras.ops.square(anchor - negative), -1)
            loss = keras.ops.mean(keras.ops.softplus(near - far))
            scaled = self.optimizer.scale_loss(loss)
        weights = self.net.trainable_weights
        self.optimizer.apply(tape.gradient(scaled, weights), weights)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def test_under_a_loss_scale():
    def train(strategy, with_prepare):
        with few_of(strategy).scope():
            keras.utils.set_random_seed(5)
            model = Scaled()
            model.compile(keras.optimizers.LossScaleOptimizer(adam(), 1024.0))
        return trained(prepare(model) if with_prepare else model)

    assert max(off_by(train("mirrored", True), train("none", False))) < 1e-5


def test_evaluate_reports_what_one_device_does():
    one = compiled(own_models.Autoencoder)
    model = on("mirrored")
    data = own_models.dataset(own_models.Autoencoder)
    got = model.evaluate(data, verbose=0, return_dict=True)
    wanted = one.evaluate(data, verbose=0, return_dict=True)
    assert got == pytest.approx(wanted, rel=1e-5)


def test_predict_and_callbacks_work_as_before(tmp_path):
    with few_of("mirrored").scope():
        model = prepare(compiled(own_models.Distiller, adam))
    data = own_models.dataset(own_models.Distiller)
    callback = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (1 + epoch))
    file = str(tmp_path / "own.weights.h5")
    saver = keras.callbacks.ModelCheckpoint(file, save_weights_only=True)
    model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[callback, saver])
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.005)
    assert model.predict(own_models.X, verbose=0).shape == (29, own_models.CLASSES)
    again = compiled(own_models.Distiller, adam)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(file)
    for got, wanted in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_preparing_twice_changes_nothing():
    with few_of("mirrored").scope():
        model = prepare(compiled(own_models.Adversarial))
    pair = list(model.pair)
    step = model.train_step
    prepare(model)
    assert list(model.pair) == pair
    assert model.train_step.args[-1] == step.args[-1]
    wanted = on_one_device(own_models.Adversarial, sgd)
    assert max(off_by(trained(model), wanted)) < 1e-5


def test_optimizers_keep_their_state():
    model = compiled(own_models.Autoencoder, adam)
    trained(model)
    before = [np.array(v) for v in model.optimizer.variables]
    prepare(model)
    assert isinstance(model.optimizer, distloss.DistributedOptimizer)
    for variable, value in zip(model.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_compiled_again_without_preparing_is_refused_when_it_trains():
    with few_of("mirrored").scope():
        model = prepare(compiled(own_models.Autoencoder))
        model.compile(adam())
    with pytest.raises(ContextError, match=r"distloss.prepare\(model\) after"):
        trained(model)


class KeepsItElsewhere(own_models.Autoencoder):
    def compile(self, optimizer):
        super().compile(optimizer)
        self.holder = type("Holder", (), {"optimizer": sgd()})()

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.losses_of(*data)[-1]
        gradients = tape.gradient(loss, self.trainable_weights)
        self.holder.optimizer.apply(gradients, self.trainable_weights)
        return {}


def test_an_optimizer_that_was_not_found_is_refused_when_it_updates():
    with pytest.raises(ContextError, match="keeps it elsewhere"):
        trained(on("mirrored", KeepsItElsewhere))


def test_an_update_from_a_callback_is_made_once_on_all_replicas():
    """Outside the scope, gradients are nobody's part; inside it, they are refused."""
    with few_of("mirrored").scope():
        model = prepare(compiled(own_models.Siamese))
    variables = model.net.trainable_variables
    ones = [tf.ones_like(v) for v in variables]
    before = []

    def update(_epoch, _logs):
        before.extend(np.array(v) for v in variables)
        model.optimizer.apply(ones, variables)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=update)
    data = own_models.dataset(own_models.Siamese).take(1)
    model.fit(data, verbose=0, shuffle=False, callbacks=[callback])
    for variable, start in zip(variables, before, strict=True):
        for copy in few_of("mirrored").experimental_local_results(variable.value):
            np.testing.assert_allclose(copy, start - 0.1, rtol=1e-6)
    with (
        few_of("mirrored").scope(),
        pytest.raises(ContextError, match="in replica context"),
    ):
        model.optimizer.apply(ones, variables)


class WithoutOptimizer(own_models.Siamese):
    def compile(self):
        super().compile()
        self.optimizer = None


def bare(kind, *args):
    with few_of("mirrored").scope():
        model = kind()
        model.compile(*args)
    return model


def test_bad_input_says_what_to_do():
    model = bare(own_models.Siamese, "sgd")
    with pytest.raises(ArgumentError, match="microbatches=2"):
        prepare(model, microbatches=2)
    with pytest.raises(ArgumentError, match="in the attributes of the model"):
        prepare(bare(WithoutOptimizer))
    loss = distloss.DistributedLoss("mse")
    waits = distloss.DistributedOptimizer(sgd(), accumulation_steps=2, loss=loss)
    with pytest.raises(ArgumentError, match="accumulation_steps=2"):
        prepare(bare_with(waits))
    step = prepare(model).train_step
    with few_of("mirrored").scope():
        with pytest.raises(ArgumentError, match="nothing has an axis"):
            step(tf.constant(1.0))
        with pytest.raises(ArgumentError, match="same number of rows"):
            step((tf.zeros([3, 2]), tf.zeros([4, 2])))


def bare_with(optimizer):
    model = own_models.Siamese()
    model.compile(optimizer)
    return model


class Synchronized(own_models.Siamese):
    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization(synchronized=True)


def test_layers_that_meet_other_replicas_are_refused():
    with pytest.raises(ArgumentError, match="synchronized=True on 3 replicas"):
        prepare(bare(Synchronized, "sgd"))


def collectives_of(kind):
    """How many values the replicas sum in one step, besides those of gradients."""
    replicas, calls = counted_replicas()
    with few_of("mirrored").scope():
        model = compiled(kind)
    prepare(model, replicas=replicas)
    model.fit(own_models.dataset(kind).take(1), shuffle=False, verbose=0)
    updates = calls.count("gradients")  # traced once for each replica
    return updates / 3, (len(calls) - updates) / 3


@pytest.mark.parametrize(
    ("kind", "updates", "others"),
    [
        (own_models.Autoencoder, 1, 0),
        (own_models.Adversarial, 4, 0),
        (own_models.Distiller, 1, 0),
        (own_models.Diffusion, 1, 0),
        (own_models.Weighted, 1, 1),  # rows are in one memory
        (own_models.MeanTeacher, 1, 2),
    ],
)
def test_only_losses_with_weights_or_chosen_rows_cost_a_collective(
    kind, updates, others
):
    assert collectives_of(kind) == (updates, others)


CHOOSE = {
    "all": lambda v, y: v,
    "halves": lambda v, y: v[: tf.shape(v)[0] // 2],
    "columns": lambda v, y: v[:, 0],
    "twice": lambda v, y: tf.concat([v, v], 0),
    "none masked": lambda v, y: tf.where(y > 0, v[:, 0], 0.0),
    "masked": lambda v, y: tf.boolean_mask(v, y > 0),
    "a part": lambda v, y: v[: tf.reduce_sum(y)],
    "as many": lambda v, y: tf.fill([tf.reduce_sum(y)], v[0, 0]),
    "unique": lambda v, y: tf.cast(tf.unique(y)[0], tf.float32),
    "in a function": lambda v, y: tf.function(lambda a: a * 2)(v),
    "in a loop": lambda v, y: tf.map_fn(lambda a: a[0], v),
}


def test_rows_of_open_length_are_counted():
    found = []

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def step(x):
        context = RowWeightedContext(tf.shape(x)[0], distloss.StrategyReplicas())
        context.inputs = [x]
        found.append(counts_like_rows(tf.reshape(x, [-1]), context))

    step.get_concrete_function()
    assert found == [False]


@pytest.mark.parametrize(
    ("name", "counts"),
    [(name, at < 5) for at, name in enumerate(CHOOSE)],
    ids=list(CHOOSE),
)
def test_values_that_are_not_as_many_for_each_row_are_found(name, counts):
    found = []

    @tf.function(
        input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int32)]
    )
    def step(x, y):
        context = RowWeightedContext(tf.shape(x)[0], distloss.StrategyReplicas())
        context.inputs = [x, y]
        values = CHOOSE[name](tf.square(x) + 1.0, y)
        found.append(counts_like_rows(values, context))
        return values

    step.get_concrete_function()
    assert found == [counts]


class InFunction(own_models.Siamese):
    @tf.function
    def train_step(self, data):
        return own_models.Siamese.train_step(self, data)


class OfDict(own_models.Siamese):
    data = (
        {"a": own_models.X, "p": own_models.X[::-1], "n": np.roll(own_models.X, 3, 0)},
    )

    def train_step(self, data):
        (rows,) = data
        return super().train_step((rows["a"], rows["p"], rows["n"]))


@pytest.mark.parametrize("kind", [InFunction, OfDict])
def test_steps_in_functions_and_batches_that_are_dicts(kind):
    with few_of("mirrored").scope():
        model = prepare(compiled(kind))
    wanted = on_one_device(own_models.Siamese, sgd)
    assert max(off_by(trained(model), wanted)) < 1e-5


def test_a_step_given_to_the_model_alone_is_its_own():
    with few_of("mirrored").scope():
        model = own_models.net(4, 2)
        model.build((None, own_models.FEATURES))
        model.compile(sgd(), "mse")

        def step(data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x) - y) ** 2)
            weights = model.trainable_weights
            model.optimizer.apply(tape.gradient(loss, weights), weights)
            return {"squared": loss}

        model.train_step = step
        prepare(model)
    start = [np.array(w) for w in model.get_weights()]
    data = own_models.X, own_models.TARGET
    history = model.fit(*data, batch_size=29, shuffle=False, verbose=0).history
    alone = own_models.net(4, 2)
    alone.build((None, own_models.FEATURES))
    alone.set_weights(start)
    alone.compile(sgd(), "mse")
    loss = alone.fit(*data, batch_size=29, shuffle=False, verbose=0).history["loss"]
    assert history["squared"] == pytest.approx(loss, rel=1e-5)
    for got, wanted in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)

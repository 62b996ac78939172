"""prepare() of tf-keras models with a step of their own: as one device, any split."""

import functools

import numpy as np
import own_models_tf_keras as own_models
import pytest
import tensorflow as tf
import tf_keras
from chosen import some
from conftest import few_of
from counted import counted_replicas
from own_models_tf_keras import (
    KINDS,
    adam,
    compiled,
    old_adam,
    old_sgd,
    sgd,
    trained,
)
from test_own_steps import off_by

import distloss
from distloss import prepare
from distloss._errors import ArgumentError, ContextError
from distloss._keras import tf_keras_own_steps as upstream

pytestmark = pytest.mark.slow

SOME_KINDS = pytest.mark.parametrize(
    "kind", some(KINDS, 3), ids=lambda kind: kind.__name__
)


@functools.cache
def on_one_device(kind, optimizer):
    """What plain tf-keras trains on one device."""
    return trained(compiled(kind, optimizer))


def on_three(kind, optimizer, *, prepared=True):
    with few_of("mirrored").scope():
        model = compiled(kind, optimizer)
    if prepared:
        prepare(model)
    return trained(model)


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [(kind, sgd) for kind in some(KINDS, 4)]
    + [(kind, adam) for kind in some(KINDS[1:], 6)],
)
def test_a_step_of_its_own_trains_as_on_one_device(kind, optimizer):
    got = on_three(kind, optimizer)
    weights, numbers = off_by(got, on_one_device(kind, optimizer))
    assert weights < 1e-5
    assert numbers < 1e-5


@SOME_KINDS
def test_the_same_unprepared_does_not(kind):
    """How far off plain tf-keras is; where it refuses, that is said."""
    if kind in (own_models.Weighted, own_models.Tagger, own_models.MeanTeacher):
        with pytest.raises(ValueError, match=r"Please use `tf.keras.losses.Reduction"):
            on_three(kind, sgd, prepared=False)
        return
    got = on_three(kind, sgd, prepared=False)
    with np.errstate(invalid="ignore"):
        weights, _ = off_by(got, on_one_device(kind, sgd))
    assert not weights < 1e-2  # NaN among them


@pytest.mark.parametrize("optimizer", some([old_sgd, old_adam], 2))
def test_the_optimizers_before_those_clip_the_mean_too(optimizer):
    for kind in (own_models.Adversarial, own_models.Guide):
        got = on_three(kind, optimizer)
        assert max(off_by(got, on_one_device(kind, optimizer))) < 1e-5


def on(strategy, kind=own_models.Autoencoder, optimizer=adam, **options):
    with few_of(strategy).scope():
        model = compiled(kind, optimizer, **options)
    return prepare(model)


@pytest.mark.parametrize("strategy", ["none", "one_device", "collective"])
def test_on_other_strategies(strategy):
    got = trained(on(strategy))
    assert max(off_by(got, on_one_device(own_models.Autoencoder, adam))) < 1e-5


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"steps_per_execution": 4}])
def test_with_options_of_compile(options):
    got = trained(on("mirrored", **options))
    assert max(off_by(got, on_one_device(own_models.Autoencoder, adam))) < 1e-5


def test_chosen_rows_are_counted_eagerly_too():
    got = trained(on("mirrored", own_models.Tagger, run_eagerly=True))
    assert max(off_by(got, on_one_device(own_models.Tagger, adam))) < 1e-5


def test_numbers_are_means_also_where_tf_keras_takes_those_of_the_first():
    model = on("mirrored", own_models.Adversarial)
    model.distribute_reduction_method = "first"
    wanted = on_one_device(own_models.Adversarial, adam)
    assert max(off_by(trained(model), wanted)) < 1e-5


class Scaled(own_models.Autoencoder):
    """A step that scales its loss, as mixed precision needs it."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            mse, kl, loss = self.losses_of(*data)
            scaled = self.optimizer.get_scaled_loss(loss)
        weights = self.trainable_weights
        gradients = tape.gradient(scaled, weights)
        gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self.tracked(loss=loss, mse=mse, kl=kl)


@pytest.mark.parametrize("optimizer", [adam, old_sgd])
def test_under_a_loss_scale(optimizer):
    def scaled():
        scale = tf_keras.mixed_precision.LossScaleOptimizer
        return scale(optimizer(), initial_scale=1024.0)

    got = trained(on("mirrored", Scaled, scaled))
    assert max(off_by(got, on_one_device(own_models.Autoencoder, optimizer))) < 1e-5


@pytest.mark.parametrize("kind", [own_models.Autoencoder, own_models.OwnLoss])
def test_evaluate_reports_what_one_device_does(kind):
    data = own_models.dataset(kind)
    got = on("mirrored", kind).evaluate(data, verbose=0, return_dict=True)
    wanted = compiled(kind).evaluate(data, verbose=0, return_dict=True)
    assert got == pytest.approx(wanted, rel=1e-5)


def test_a_moving_average_is_the_same_on_all_replicas():
    """That of the last is not held back, which has no rows in the end."""
    model = on("mirrored", own_models.MeanTeacher)
    trained(model)
    for weight in model.teacher.weights:
        first, *others = (copy.numpy() for copy in weight.values)
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_predict_saving_and_callbacks_work_as_before(tmp_path):
    model = on("mirrored")
    data = own_models.dataset(own_models.Autoencoder)
    callback = tf_keras.callbacks.LearningRateScheduler(lambda at: 0.01 / (1 + at))
    file = str(tmp_path / "own.weights.h5")
    saver = tf_keras.callbacks.ModelCheckpoint(file, save_weights_only=True)
    model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[callback, saver])
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.005)
    assert model.predict(own_models.X, verbose=0).shape == own_models.X.shape
    again = compiled(own_models.Autoencoder, adam)
    again(own_models.X)
    again.load_weights(file)
    for got, wanted in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


class Tiny(tf_keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"objective": loss}

    data = (own_models.X, own_models.TARGET)


def tiny(kind=Tiny, *layers):
    return kind([*layers, tf_keras.layers.Dense(2, input_shape=[own_models.FEATURES])])


def test_a_file_holds_the_optimizer_as_it_was_compiled(tmp_path):
    model = tiny()
    model.compile(adam())
    prepare(model)
    trained(model)
    model.save(tmp_path / "own.keras")
    with tf_keras.saving.custom_object_scope({"Tiny": Tiny}):
        loaded = tf_keras.models.load_model(tmp_path / "own.keras")
    assert type(loaded.optimizer) is tf_keras.optimizers.Adam
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)
    for got, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert max(off_by(trained(prepare(loaded)), trained(model))) < 1e-5


def test_preparing_twice_changes_nothing():
    model = on("mirrored", own_models.Adversarial, sgd)
    pair, step = [model.pair[0], model.pair[1]["generator"]], model.train_step
    with few_of("mirrored").scope():
        prepare(model)
    assert [model.pair[0], model.pair[1]["generator"]] == pair
    assert model.train_step.args[-1] == step.args[-1]
    wanted = on_one_device(own_models.Adversarial, sgd)
    assert max(off_by(trained(model), wanted)) < 1e-5


def test_optimizers_keep_their_state():
    model = compiled(own_models.Autoencoder, adam)
    trained(model)
    before = [np.array(v) for v in model.optimizer.variables]
    prepare(model)
    assert upstream.optimizer_classes()[0] in type(model.optimizer).__mro__
    for variable, value in zip(model.optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_compiled_again_without_preparing_is_refused_when_it_trains():
    model = on("mirrored", own_models.Guide)
    with few_of("mirrored").scope():
        model.compile(adam)
    with pytest.raises(ContextError, match=r"distloss.prepare\(model\) after"):
        trained(model)


class Holder:
    def __init__(self, optimizer):
        self.optimizer = optimizer


class KeepsItElsewhere(Tiny):
    make = None

    def compile(self, make):
        super().compile("sgd")
        self.optimizer, self.holder = None, Holder(make())
        self.other = adam()

    def train_step(self, data):
        self.optimizer = self.holder.optimizer
        try:
            return super().train_step(data)
        finally:
            self.optimizer = None


def scaled_sgd():
    return tf_keras.mixed_precision.LossScaleOptimizer(sgd())


@pytest.mark.filterwarnings("ignore:.*LossScaleOptimizer")
@pytest.mark.parametrize("optimizer", [sgd, old_sgd, scaled_sgd])
def test_an_optimizer_that_was_not_found_is_refused_when_it_updates(optimizer):
    with few_of("mirrored").scope():
        model = tiny(KeepsItElsewhere)
        model.compile(optimizer)
    with pytest.raises(ContextError, match="keeps it elsewhere"):
        trained(prepare(model))


class SumsItself(Tiny):
    """Sums gradients itself, by `aggregate_gradients` or around it."""

    is_ours = True

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        if self.is_ours:
            pairs = self.optimizer.aggregate_gradients(
                zip(gradients, weights, strict=True)
            )
        else:
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce("sum", gradients)
            pairs = zip(gradients, weights, strict=True)
        self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        return {"objective": loss}


def compiled_tiny(kind, *layers):
    tf_keras.utils.set_random_seed(5)
    model = tiny(kind, *layers)
    model.compile(adam())
    return model


def test_gradients_that_a_step_sums_itself_are_refused():
    wanted = trained(compiled_tiny(SumsItself))
    with few_of("mirrored").scope():
        model = prepare(compiled_tiny(SumsItself))
        wrong = prepare(compiled_tiny(SumsItself))
    assert max(off_by(trained(model), wanted)) < 1e-5
    wrong.is_ours = False
    with pytest.raises(ContextError, match="that were summed before"):
        trained(wrong)


def test_models_that_cannot_be_prepared_are_refused():
    with few_of("mirrored").scope():
        model, without, other = (compiled_tiny(Tiny) for _ in range(3))
        meets = compiled_tiny(
            Tiny, tf_keras.layers.BatchNormalization(synchronized=True)
        )
    without.optimizer = None
    other.optimizer = adam()
    with pytest.raises(ArgumentError, match="microbatches=2"):
        prepare(model, microbatches=2)
    with pytest.raises(ArgumentError, match="in the attributes of the model"):
        prepare(without)
    with pytest.raises(ArgumentError, match="synchronized=True on 3 replicas"):
        prepare(meets)
    with pytest.raises(ContextError, match="Adam was made in another"):
        prepare(other)
    with pytest.raises(ArgumentError, match=r"Call model\.compile"):
        prepare(tiny())
    with pytest.raises(ArgumentError, match="Expected the replicas"):
        prepare(compiled_tiny(Tiny), replicas=distloss.HorovodReplicas())


def test_batches_without_rows_are_refused():
    with few_of("mirrored").scope():
        step = prepare(compiled_tiny(Tiny)).train_step
        with pytest.raises(ArgumentError, match="nothing has an axis"):
            step(tf.constant(1.0))
        with pytest.raises(ArgumentError, match="same number of rows"):
            step((tf.zeros([3, 2]), tf.zeros([4, 2])))


def collectives_of(kind):
    """What replicas sum in one step, in order, and of how many values each."""
    replicas, calls = counted_replicas()
    with few_of("mirrored").scope():
        model = compiled(kind)
    prepare(model, replicas=replicas)
    model.fit(own_models.dataset(kind).take(1), shuffle=False, verbose=0)
    updates = 4 if kind is own_models.Adversarial else 1
    traces = calls.count("gradients") // updates  # on each replica, once or twice
    return {name: calls.count(name) / traces for name in set(calls)}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (own_models.Autoencoder, {"gradients": 1}),
        (own_models.Adversarial, {"gradients": 4}),
        (own_models.MeanTeacher, {"gradients": 1}),
        (own_models.Weighted, {"gradients": 1}),
        (own_models.Guide, {"gradients": 1}),
        (
            own_models.Tagger,
            {
                "gradients": 1,
                "loss_sum_over_batch_size": 2,
            },
        ),
    ],
)
def test_only_masks_sums_and_chosen_rows_cost_a_collective(kind, wanted):
    assert collectives_of(kind) == wanted

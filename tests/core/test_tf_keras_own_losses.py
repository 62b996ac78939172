"""What losses and metrics of tf-keras tell in a step of one's own, on replicas."""

import collections
import inspect

import numpy as np
import own_models_tf_keras as own_models
import pytest
import tensorflow as tf
import tf_keras
from conftest import few_of
from dense_gradients import given_dense
from own_models_tf_keras import TARGET, WEIGHT, X, adam, net, sgd, trained
from quick import with_slots
from test_own_steps import off_by
from tf_keras import layers, losses, metrics

import distloss
from distloss import prepare
from distloss._formula.row_weights import RowWeightedContext
from distloss._formula.step_context import step_scope
from distloss._keras import tf_keras_own_steps as upstream
from distloss._keras.model_hooks import Hook
from distloss._prepare.tf_keras_own_losses import report_means

pytestmark = pytest.mark.slow


class Base(tf_keras.Model):
    """One loss, one update; what a child adds is looked at."""

    data = (X, TARGET, WEIGHT)

    def __init__(self):
        super().__init__()
        self.net = net(own_models.FEATURES, 5, 2)
        self.start()

    def start(self):
        """Of a child."""

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_of(*data)
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.update(gradients, weights)
        return {"objective": loss, **self.also(loss)}

    def loss_of(self, x, y, _weight):
        return tf.reduce_mean((self(x) - y) ** 2)

    def update(self, gradients, weights):
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

    def also(self, _loss):
        return {metric.name: metric.result() for metric in self.metrics}


def made(kind, strategy, *compile_args, **options):
    with few_of(strategy).scope():
        tf_keras.utils.set_random_seed(5)
        model = kind()
        model.compile(adam(), *compile_args, **options)
        return with_slots(model)


def assert_trains_as_on_one_device(kind, *compile_args):
    wanted = trained(made(kind, "none", *compile_args))
    got = trained(prepare(made(kind, "mirrored", *compile_args)))
    assert max(off_by(got, wanted)) < 1e-5


class Distance(losses.Loss):
    def call(self, y_true, y_pred):
        return tf.abs(y_true - y_pred)


class OfElements(Base):
    """A loss class of one's own, with weights of rows for elements."""

    def start(self):
        self.distance = Distance()

    def loss_of(self, x, y, weight):
        loss = self.distance(y, self(x), sample_weight=weight[:, tf.newaxis])
        none = losses.MeanSquaredError(reduction="none")
        return loss + tf.reduce_mean(none(y, self(x)))


class NeedsRows(Base):
    """A step that fails on no rows, as a convolution does."""

    def loss_of(self, x, y, weight):
        has_rows = tf.debugging.assert_positive(tf.shape(x)[0])
        with tf.control_dependencies([has_rows]):
            return super().loss_of(tf.identity(x), y, weight)


class Distributed(Base):
    def start(self):
        mse = losses.MeanSquaredError()
        how = "mean_with_sample_weight"
        self.mse = distloss.DistributedLoss(mse, reduction=how)

    def loss_of(self, x, y, weight):
        return self.mse(y, self(x), sample_weight=weight)


class Compiled(Base):
    def loss_of(self, x, y, weight):
        return self.compute_loss(x, y, self(x), weight)


class WithoutWeights(Base):
    def loss_of(self, x, y, _weight):
        return self.compute_loss(x, y, self(x), None)


def number(y_true, y_pred):
    return tf.reduce_mean((y_true - y_pred) ** 2)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (OfElements, []),
        (NeedsRows, []),
        (Distributed, []),
        (Compiled, [losses.Huber(reduction="sum")]),
        (Compiled, [distloss.DistributedLoss(losses.Huber(reduction="sum"))]),
        (WithoutWeights, [number]),
    ],
)
def test_other_losses_train_as_on_one_device(kind, loss):
    assert_trains_as_on_one_device(kind, *loss)


class Tells(Base):
    """A metric called, a number with weights, elements, a result that is changed."""

    def start(self):
        self.number = metrics.Mean("number")
        self.weighted = metrics.Mean("weighted")
        self.elements = metrics.Mean("elements")
        self.total = metrics.Sum("total")
        self.area = metrics.AUC(name="area", num_thresholds=20)

    def loss_of(self, x, y, weight):
        y_pred = self(x)
        loss = tf.reduce_mean((y_pred - y) ** 2)
        self.weighted.update_state(loss, sample_weight=tf.shape(x)[0])
        self.elements.update_state((y_pred - y) ** 2, sample_weight=weight[:, None])
        self.total.update_state(tf.reduce_sum((y_pred - y) ** 2, -1))
        self.area.update_state(y > 0, tf.sigmoid(y_pred))
        return loss

    def also(self, loss):
        return {"called": self.number(loss), "two": 2 * self.number.result()} | (
            super().also(loss)
        )


class Adds(layers.Layer):
    def call(self, x):
        self.add_metric(tf.reduce_mean(x), name="mean")
        return x


class MadeInStep(Base):
    """A metric that a layer makes when it is first called, and one of the step."""

    def start(self):
        self.layer, self.tracker = Adds(), None

    def call(self, x):
        return self.layer(self.net(x))

    def loss_of(self, x, y, weight):
        if self.tracker is None:
            self.tracker = metrics.Mean("tracker")
        loss = super().loss_of(x, y, weight)
        self.tracker.update_state(loss)
        return loss


@pytest.mark.parametrize("kind", [Tells, MadeInStep])
def test_metrics_hear_of_each_row_once(kind):
    assert_trains_as_on_one_device(kind)


Pair = collections.namedtuple("Pair", "first second")


class Keeps(Base):
    """One optimizer in two places, another in a named tuple."""

    def compile(self, optimizer):
        super().compile(optimizer)
        self.pair = Pair(optimizer, sgd())
        self.deep = {"rules": [(optimizer,)]}

    def update(self, gradients, weights):
        pairs = list(zip(gradients, weights, strict=True))
        self.deep["rules"][0][0].apply_gradients(pairs[:2])
        self.pair.second.apply_gradients(pairs[2:])


def test_optimizers_are_found_in_lists_dicts_and_tuples():
    assert_trains_as_on_one_device(Keeps)
    model = prepare(made(Keeps, "mirrored"))
    assert model.pair.first is model.optimizer is model.deep["rules"][0][0]


class Embeds(tf_keras.Model):
    data = (own_models.Y % 3, TARGET)

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(3, 5, embeddings_regularizer="l2")
        self.table.build((None,))
        self.net = net(5, 4, 2)

    def train_step(self, data):
        words, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.net(self.table(words)) - y) ** 2)
            loss += tf.add_n(self.losses)
        weights = self.table.trainable_variables + self.net.layers[0].weights
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"objective": loss}


def test_sparse_gradients_and_some_of_the_weights():
    one = made(Embeds, "none")
    given_dense(one.optimizer)  # for tf-keras clips slices apart
    got = trained(prepare(made(Embeds, "mirrored")))
    assert max(off_by(got, trained(one))) < 1e-5


LENGTHS = np.random.default_rng(0).integers(1, 5, 24)


def ragged(width):
    values = np.random.default_rng(width).normal(size=(LENGTHS.sum(), width))
    return tf.RaggedTensor.from_row_lengths(values.astype("float32"), LENGTHS)


class OfTokens(Base):
    """The mean over tokens, of which rows have more or fewer."""

    data = (ragged(own_models.FEATURES), ragged(2))

    def loss_of(self, x, y):
        return losses.MeanSquaredError()(y.flat_values, self.net(x.flat_values))


class OfRaggedTokens(OfTokens):
    def loss_of(self, x, y):
        y_pred = x.with_flat_values(self.net(x.flat_values))
        return losses.MeanSquaredError()(y, y_pred)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [OfTokens, OfRaggedTokens])
def test_tokens_of_ragged_rows_are_counted(kind):
    assert_trains_as_on_one_device(kind)


class Normalizes(Base):
    """Rows move the statistics of a layer, from which the loss does not come."""

    def start(self):
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.norm.build((None, 2))

    def loss_of(self, x, y, weight):
        self.norm(self.net(x) + 3.0, training=True)
        return super().loss_of(x, y, weight)


def test_statistics_of_layers_are_kept_without_rows():
    model = prepare(made(Normalizes, "mirrored"))
    few = tf.data.Dataset.from_tensor_slices(Base.data).take(2).batch(4)
    model.fit(few, verbose=0)
    *moved, last = (copy.numpy() for copy in model.norm.moving_mean.values)
    assert (np.abs(moved[0]) > 0.5).all()
    np.testing.assert_array_equal(last, [0.0, 0.0])


def test_a_step_given_to_the_object_is_its_own():
    def step(model, data):
        x, y, _ = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        model.optimizer.minimize(loss, model.trainable_variables, tape=tape)
        return {"objective": loss}

    def make(strategy):
        with few_of(strategy).scope():
            tf_keras.utils.set_random_seed(5)
            model = net(own_models.FEATURES, 5, 2)
            model.compile(adam())
        model.train_step = lambda data: step(model, data)
        return model

    data = tf.data.Dataset.from_tensor_slices(Base.data).batch(own_models.BATCH)
    got = trained(prepare(make("mirrored")), data)
    assert max(off_by(got, trained(make("none"), data))) < 1e-5


# -- what costs no collective, and what must


class Counted(distloss.StrategyReplicas):
    """Of three, which note what they sum."""

    def __init__(self):
        vars(self)["names"] = []

    def count(self):
        return 3

    def sum(self, local, name="sum"):
        self.names.append(name)
        return super().sum(local, name)


def test_results_of_metrics_are_reported_as_they_are():
    """And so cost nothing, where they are of losses that were compiled."""
    replicas = Counted()

    def compiled(strategy):
        with few_of(strategy).scope():
            mae = metrics.MeanAbsoluteError()  # given, and built in the step
        return made(Compiled, strategy, "mse", metrics=[mae])

    data = tf.data.Dataset.from_tensor_slices(Base.data).batch(own_models.BATCH)
    model = prepare(compiled("mirrored"), replicas=replicas)
    got = model.evaluate(data, verbose=0)
    wanted = compiled("none").evaluate(data, verbose=0)
    assert got == pytest.approx(wanted, rel=1e-6)
    assert replicas.names == []


@pytest.mark.parametrize(("width", "names"), [(3, []), (None, ["mean"])])
def test_weights_that_may_be_more_for_some_rows_are_counted(width, names):
    shapes = [tf.TensorSpec([None, 1]), tf.TensorSpec([None, width])]

    @tf.function(input_signature=shapes)
    def step(x, weight):
        replicas = Counted()
        given = RowWeightedContext(tf.shape(x)[0], replicas)
        given.inputs = [x, weight]
        with step_scope(given):
            given.mean_of = lambda *_: replicas.names.append("mean") or tf.zeros([])
            Distance()(x, 2 * x, sample_weight=weight)
        assert replicas.names == names
        return x

    prepare(made(Base, "none"))
    step.get_concrete_function()


# -- what we rely on inside tf-keras


def test_losses_pass_their_mask_on_as_weights():
    """`masked` and `reduced` take two of its functions apart, by their arguments."""
    prepare(made(Base, "none"))
    utils = inspect.getmodule(losses.Loss).losses_utils
    wanted = {
        "apply_valid_mask": ["losses", "sw", "mask", "reduction"],
        "compute_weighted_loss": ["losses", "sample_weight", "reduction", "name"],
        "scale_loss_for_distribution": ["loss_value"],
    }
    for name, arguments in wanted.items():
        hook = getattr(utils, name)
        assert isinstance(hook, Hook)
        assert list(inspect.signature(hook.args[0]).parameters) == arguments
    source = inspect.getsource(losses.Loss.__call__)
    for call in (*list(wanted)[:2], "_get_reduction"):
        assert source.count(f"{call}(") == 1


def test_compiled_losses_are_asked_for_their_reduction_only():
    model = made(Compiled, "none", [losses.Huber(reduction="sum")])
    model.compiled_loss.build(tf.zeros([2, 2]))
    report_means(model.compiled_loss)
    report_means(model.compiled_loss)
    assert float(model.compiled_loss(tf.zeros([2, 2]), tf.ones([2, 2]))) == 1.0
    source = inspect.getsource(type(model.compiled_loss).__call__)
    assert "loss_obj.reduction == losses_utils.ReductionV2.SUM" in source
    assert "num_replicas_in_sync" in source


def test_all_ways_to_update_are_watched():
    prepare(made(Base, "none"))
    scale = tf_keras.mixed_precision.LossScaleOptimizer
    for optimizer in (adam(), own_models.old_sgd(), scale(adam())):
        assert type(optimizer).apply_gradients.is_ours
        assert isinstance(optimizer, upstream.optimizer_classes())
    assert metrics.Mean.__new__.is_ours


def test_fit_adds_up_what_replicas_return():
    class Ones(Base):
        def train_step(self, _data):
            return {"ones": tf.reduce_sum(tf.ones([1]))}

    model = made(Ones, "mirrored")
    for method in ("auto", "sum", "first"):
        model.distribute_reduction_method = method
        data = tf.data.Dataset.from_tensor_slices(Base.data).batch(8).take(1)
        model.train_function = None
        got = model.fit(data, verbose=0).history["ones"]
        assert got == [3.0 if upstream.sums_what_steps_return(model) else 1.0]

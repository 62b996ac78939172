"""row_weighted(): the step of a loop, in one line, on any split as on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from hypothesis import given, settings
from hypothesis import strategies as st

import distloss
from distloss import DistributedLoss, DistributedOptimizer, mean_share, row_weighted
from distloss._errors import ArgumentError, ArgumentTypeError, ContextError

pytestmark = pytest.mark.slow

FEATURES = 5
RNG = np.random.default_rng(2)
X = RNG.normal(size=(24, FEATURES)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")
W = RNG.uniform(0, 4, 24).astype("float32")


def network(norm=False):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(4, "tanh", kernel_regularizer="l2")(inputs)
    if norm:
        x = keras.layers.BatchNormalization()(x, training=False)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def step_of(loss_of):
    """Makes a step that minimises `loss_of(model, x, y, w)`."""

    def make(model, optimizer, metric=None):
        def step(x, y, w):
            with tf.GradientTape() as tape:
                loss = loss_of(model, x, y, w)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            if metric is not None:
                metric.update_state(loss)
            return loss

        return step

    return make


WEIGHTED = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")


@step_of
def mean_step(model, x, y, w):
    """Raw means, a regulariser, a Keras loss with weights."""
    y_pred = model(x)
    loss = tf.reduce_mean((y_pred - y) ** 4) + sum(model.losses)
    return loss + WEIGHTED(y, y_pred, sample_weight=w)


def adam():
    return keras.optimizers.Adam(0.05, global_clipnorm=0.2)


def on_one_device(batches, make=mean_step):
    model, metric = network(), keras.metrics.Mean()
    step = make(model, adam(), metric)
    losses = [float(step(X[b], Y[b], W[b])) for b in batches]
    return model.get_weights(), losses, float(metric.result())


class OnFour:
    """The step on four replicas, each with the rows that a split gives it."""

    def __init__(self, make=mean_step, **options):
        self.strategy = strategy_of("mirrored")
        with self.strategy.scope():
            self.model, self.metric = network(), keras.metrics.Mean()
            self.optimizer = DistributedOptimizer(adam())
            self.optimizer.build(self.model.trainable_variables)
        step = make(self.model, self.optimizer, self.metric)
        self.step = row_weighted(step, self.model, self.metric, **options)
        self.start = [np.array(v) for v in self.variables]

    @property
    def variables(self):
        return self.model.variables + self.optimizer.variables + self.metric.variables

    def restart(self):
        for variable, value in zip(self.variables, self.start, strict=True):
            variable.assign(value)

    @tf.function
    def train(self, starts, ends):
        def of_replica(starts, ends):
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            rows = tf.range(starts[index], ends[index])
            return self.step(*(tf.gather(array, rows) for array in (X, Y, W)))

        losses = self.strategy.run(of_replica, (starts, ends))
        return self.strategy.reduce("SUM", losses, axis=None)

    def trained(self, splits):
        """Weights, losses and the metric after a step for each split of a batch."""
        self.restart()
        losses, first = [], 0
        for counts in splits:
            ends = first + np.cumsum(counts)
            starts, first = ends - counts, int(ends[-1])
            losses.append(float(self.train(tf.constant(starts), tf.constant(ends))))
        return self.model.get_weights(), losses, float(self.metric.result())


def batches_of(splits):
    ends = np.cumsum([sum(counts) for counts in splits])
    return [
        slice(end - sum(counts), end) for end, counts in zip(ends, splits, strict=True)
    ]


def assert_same(got, wanted):
    for weight, other in zip(got[0], wanted[0], strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5 * np.abs(other).max())
    np.testing.assert_allclose(got[1], wanted[1], rtol=1e-5)
    assert got[2] == pytest.approx(wanted[2], rel=1e-5)


@pytest.fixture(scope="module")
def four_replicas():
    return OnFour()


def splits_of_a_batch():
    counts = st.lists(st.integers(0, 3), min_size=4, max_size=4)
    return counts.filter(any)


@given(st.lists(splits_of_a_batch(), min_size=1, max_size=2))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_split_makes_the_updates_of_one_device(four_replicas, splits):
    wanted = on_one_device(batches_of(splits))
    assert_same(four_replicas.trained(splits), wanted)


SPLITS = [[3, 2, 1, 0], [0, 0, 4, 1]]


def test_the_same_step_unweighed_does_not(monkeypatch):
    monkeypatch.setattr(
        distloss._prepare.row_weighted.RowWeightedContext, "weigh", lambda _, v: v
    )
    four = OnFour()
    four.step = mean_step(four.model, four.optimizer)
    weights, _, _ = four.trained([[3, 2, 1, 1], [1, 1, 4, 1]])
    wanted = on_one_device(batches_of([[3, 2, 1, 1], [1, 1, 4, 1]]))
    off = [np.abs(a - b).max() for a, b in zip(weights, wanted[0], strict=True)]
    assert max(off) > 1e-2


OURS = DistributedLoss("mae", reduction="mean_with_sample_weight")


@step_of
def ours_in_the_step(model, x, y, w):
    """A DistributedLoss and a mean_share, which are shares anywhere else."""
    y_pred = model(x)
    loss = OURS(y, y_pred, w) + mean_share((y_pred - y) ** 2, w)
    return loss + distloss.regularization_share(model.losses)


def test_losses_of_ours_in_such_a_step_are_exact_too():
    wanted = on_one_device(batches_of(SPLITS), ours_in_the_step)
    assert_same(OnFour(ours_in_the_step).trained(SPLITS), wanted)


@step_of
def weights_of_columns(model, x, y, w):
    """Weights [1, 2] that all rows share: those of columns."""
    columns = (y[..., tf.newaxis], model(x)[..., tf.newaxis])
    return WEIGHTED(*columns, sample_weight=tf.constant([[1.0, 3.0]]))


@pytest.mark.parametrize("splits", [[[3, 2, 2, 0], [0, 0, 4, 2]], SPLITS])
def test_weights_that_all_rows_share_count_once(splits):
    wanted = on_one_device(batches_of(splits), weights_of_columns)
    assert_same(OnFour(weights_of_columns).trained(splits), wanted)


@step_of
def shares_of_tensorflow(model, x, y, w):
    """As TensorFlow's tutorial of custom loops writes it, for a batch of 7 rows."""
    each = tf.reduce_mean((model(x) - y) ** 2, -1)
    loss = tf.nn.compute_average_loss(each, sample_weight=w)
    loss += tf.nn.compute_average_loss(each**2, global_batch_size=7)
    return loss + tf.nn.scale_regularization_loss(sum(model.losses))


def test_shares_of_tensorflow_are_not_divided_twice():
    wanted = on_one_device(batches_of(SPLITS), shares_of_tensorflow)
    assert_same(OnFour(shares_of_tensorflow).trained(SPLITS), wanted)


def test_rows_can_be_given():
    wanted = on_one_device(batches_of(SPLITS))
    four = OnFour(rows=lambda x, y, w: tf.shape(y)[0])
    assert_same(four.trained(SPLITS), wanted)


def test_autograph_reads_the_step_as_it_reads_the_loop():
    def with_conditions(model, optimizer, metric):
        inner = mean_step(model, optimizer, metric)

        def step(x, y, w):
            scale = tf.constant(1.0)
            for _ in tf.range(2):  # a loop over tensors
                scale *= 0.5
            return inner(x, y, w * (4.0 * scale))

        return step

    wanted = on_one_device(batches_of(SPLITS))
    assert_same(OnFour(with_conditions).trained(SPLITS), wanted)


def plain_optimizer(model, _optimizer, metric):
    with strategy_of("mirrored").scope():
        return mean_step(model, adam(), metric)


def another_metric(model, optimizer, _metric):
    with strategy_of("mirrored").scope():
        return mean_step(model, optimizer, keras.metrics.Mean("other"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (plain_optimizer, "wrap it: distloss.DistributedOptimizer"),
        (another_metric, r"row_weighted\(step, model, metric\)"),
    ],
)
def test_what_would_not_be_weighed_is_refused(make, message):
    with pytest.raises(ContextError, match=message):
        OnFour(make).trained(SPLITS)


def test_bad_input_says_what_to_do():
    with pytest.raises(ArgumentTypeError, match="step=3"):
        row_weighted(3)
    with pytest.raises(ArgumentTypeError, match="models, layers and metrics"):
        row_weighted(len, "model")
    with pytest.raises(ArgumentTypeError, match="replicas=4"):
        row_weighted(len, replicas=4)
    step = row_weighted(lambda x, y: None)
    with strategy_of("mirrored").scope():
        with pytest.raises(ArgumentError, match="same number of rows"):
            step(tf.zeros([3, 2]), tf.zeros([4]))
        with pytest.raises(ArgumentError, match="nothing has an axis"):
            step(1, 2)


def test_rows_that_disagree_are_refused_when_the_step_runs():
    step = row_weighted(lambda x, y: tf.reduce_sum(x))

    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None])])
    def train(x, y):
        return strategy_of("mirrored").run(step, (x, y))

    with pytest.raises(tf.errors.InvalidArgumentError, match="same number of rows"):
        train(tf.zeros([3]), tf.zeros([2]))

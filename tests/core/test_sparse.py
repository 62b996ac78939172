"""Sparse gradients mean the dense ones: how their slices were cut does not show."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import fresh, since_keras
from chosen import some
from conftest import strategy_of
from keras import optimizers

import distloss
from distloss import DistributedLoss, DistributedOptimizer
from distloss._formula.sparse import is_compiled
from distloss.optimizers.monitor import Monitor

WORDS, WIDTH, STEPS = 7, 3, 3
# Of 11 rows, 3 words each; words come up to nine times, and some never.
RNG = np.random.default_rng(3)
IDS = RNG.integers(0, WORDS - 2, (STEPS, 11, 3)).astype("int32")
WEIGHTS = RNG.normal(size=(STEPS, 11, WIDTH)).astype("float32")
START = RNG.normal(size=(WORDS, WIDTH)).astype("float32")
BOUNDS = {1: [0, 11], 4: [0, 4, 5, 5, 11]}  # the third of four has no row

# Gradients have norms of 2 to 9, so each of these clips.
RULES = {
    "SGD": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optimizers.Adam(0.1),
    "AMSGrad": lambda: optimizers.Adam(0.1, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(0.1, weight_decay=0.1),
    "Adamax": lambda: optimizers.Adamax(0.1),
    "RMSprop": lambda: optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "Nadam": lambda: optimizers.Nadam(0.1),
    "Lion": lambda: optimizers.Lion(0.1),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adadelta": lambda: optimizers.Adadelta(0.1),
    "Adafactor": lambda: optimizers.Adafactor(0.1),
    "Ftrl": lambda: optimizers.Ftrl(0.1),
    "clipnorm": lambda: optimizers.Adam(0.1, clipnorm=0.5),
    "global_clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.5),
    "clipvalue": lambda: optimizers.SGD(0.1, clipvalue=0.3),
    "loss_scale_factor": lambda: optimizers.Adam(0.1, loss_scale_factor=4.0),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(
        optimizers.Adam(0.1, clipnorm=0.5), initial_scale=8.0
    ),
}


def loss_of(table, ids, weights, dense):
    """A sum over rows, not linear in the table; its gradient dense or in slices."""
    words = tf.one_hot(ids, WORDS) @ table if dense else tf.gather(table, ids)
    return tf.reduce_sum((tf.reduce_sum(words, 1) - weights) ** 2)


def without_shape(gradient):
    """As some layers and functions of the user give them."""
    return tf.IndexedSlices(gradient.values, gradient.indices)


def bare(unchanged):
    return unchanged


def trained(  # noqa: PLR0913
    strategy, wrap, dense, slices_of=bare, xla=False, names=tuple(RULES)
):
    """Rule -> its table after `STEPS` updates; all in one function."""
    rules = {}
    with strategy.scope():
        for name in names:
            table, optimizer = keras.Variable(START, name="table"), wrap(RULES[name]())
            optimizer.build([table])
            rules[name] = (optimizer, table)

    def replica_step(ids, weights, bounds):
        me = tf.distribute.get_replica_context().replica_id_in_sync_group
        if not xla:
            mine = slice(bounds[me], bounds[me + 1])
            ids, weights = ids[mine], weights[mine]
        for optimizer, table in rules.values():
            with tf.GradientTape() as tape:
                loss = loss_of(table.value, ids, weights, dense)
                scaled = optimizer.scale_loss(loss)
            gradient = tape.gradient(scaled, table.value)
            assert isinstance(gradient, tf.IndexedSlices) != dense
            optimizer.apply_gradients([(slices_of(gradient), table)])

    @tf.function(autograph=False, jit_compile=xla)
    def step(*batch):
        strategy.run(replica_step, batch)

    bounds = tf.constant(BOUNDS[strategy.num_replicas_in_sync])
    for ids, weights in zip(IDS, WEIGHTS, strict=True):
        step(tf.constant(ids), tf.constant(weights), bounds)
    return {name: table.numpy() for name, (_, table) in rules.items()}


def apart(got, wanted):
    """Rule -> how far it is off, of how far it moves."""
    return {
        name: np.abs(got[name] - wanted[name]).max()
        / np.abs(wanted[name] - START).max()
        for name in got
    }


@pytest.fixture(scope="module")
def dense():
    """Plain Keras with dense gradients, on one device."""
    return trained(strategy_of("none"), bare, dense=True)


def assert_same(got, wanted):
    off = {name: rel for name, rel in apart(got, wanted).items() if not rel < 1e-4}
    assert not off


@pytest.mark.parametrize("kind", ["none", "one_device", "mirrored"])
@pytest.mark.slow
def test_each_rule_moves_as_with_the_dense_gradient(kind, dense):
    assert_same(trained(strategy_of(kind), DistributedOptimizer, dense=False), dense)


@pytest.mark.parametrize("kind", ["none", "mirrored"])
def test_slices_need_not_know_the_shape(kind, dense):
    got = trained(strategy_of(kind), DistributedOptimizer, False, without_shape)
    assert_same(got, dense)


def test_plain_keras_moves_otherwise(dense):
    """So that the comparison above can show something."""
    names = [name for name in RULES if name != "loss_scale_factor"]  # it fails there
    off = apart(trained(strategy_of("none"), bare, False, names=names), dense)
    assert off["SGD"] < 1e-5 < 0.05 < min(off["Adam"], off["Nadam"], off["clipnorm"])


@pytest.mark.slow
def test_each_rule_moves_as_with_the_dense_gradient_under_xla(dense):
    got = trained(strategy_of("none"), DistributedOptimizer, dense=False, xla=True)
    assert_same(got, dense)


# --- models ---------------------------------------------------------------------

ROWS, BATCH, LENGTH = 26, 12, 5  # batches of 12, 12 and 2 rows: empty shards too
X = RNG.normal(size=(ROWS, LENGTH, WIDTH)).astype("float32")
Y = RNG.normal(size=(ROWS, 1)).astype("float32")


class Positions(keras.layers.Layer):
    """Adds an embedding of positions: the same for all rows, so once per replica."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def build(self, _shape):
        start = keras.initializers.Constant(START)
        self.table = self.add_weight(shape=START.shape, initializer=start)

    def call(self, x):
        positions = keras.ops.arange(LENGTH)
        if self.dense:
            return x + tf.one_hot(positions, WORDS) @ self.table.value
        return x + keras.ops.take(self.table, positions, axis=0)


def clipped_adam():
    return optimizers.Adam(0.1, clipnorm=0.05)


def scaled_adam():
    return optimizers.LossScaleOptimizer(clipped_adam(), initial_scale=8.0)


def fitted(model, batch=BATCH, **options):
    model.fit(X, Y, batch, epochs=2, shuffle=False, verbose=0, **options)
    return model.get_weights()


def compiled(loss, optimizer, *, dense=False, **options):
    keras.utils.set_random_seed(1)
    layers = [Positions(dense), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((LENGTH, WIDTH)), *layers])
    model.compile(optimizer, loss, **options)
    return model


@pytest.fixture(scope="module")
def plain():
    """Weights of plain Keras with a dense gradient, on one device."""
    return fitted(compiled("mse", clipped_adam(), dense=True))


def assert_same_weights(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


@since_keras(3, 5)
@pytest.mark.parametrize(
    ("optimizer", "kind", "parts", "xla"),
    [
        (optimizer, *how)
        for optimizer in some([clipped_adam, scaled_adam], 2)
        for how in (
            ("none", 1, False),
            ("none", 3, False),
            ("none", 3, True),
            ("mirrored", 1, False),
        )
    ]
    + [(scaled_adam, "mirrored", 3, False)],
)
def test_positions_train_as_with_a_dense_gradient(optimizer, kind, parts, xla, plain):
    with strategy_of(kind).scope():
        model = compiled("mse", optimizer(), jit_compile=xla)
    distloss.prepare(model, microbatches=parts)
    assert_same_weights(fitted(model), plain)


@pytest.mark.parametrize(
    "kind", ["none", pytest.param("mirrored", marks=since_keras(3, 5))]
)
@pytest.mark.parametrize("optimizer", [clipped_adam, scaled_adam])
def test_accumulated_slices_are_those_of_one_batch(optimizer, kind, plain):
    with strategy_of(kind).scope():
        loss = DistributedLoss("mse")
        rule = DistributedOptimizer(optimizer(), accumulation_steps=2, loss=loss)
        model = distloss.prepare(compiled(loss, rule))
    halves = [(0, 6), (6, 12), (12, 18), (18, 24), (24, 25), (25, 26)] * 2
    data = tf.data.Dataset.from_generator(
        lambda: (fresh((X[i:j], Y[i:j])) for i, j in halves),
        output_signature=(
            tf.TensorSpec([None, LENGTH, WIDTH]),
            tf.TensorSpec([None, 1]),
        ),
    )
    model.fit(data, shuffle=False, verbose=0)
    assert_same_weights(model.get_weights(), plain)


def test_the_monitor_sees_slices_added_up():
    """Two slices of one row, 3 and 4: a norm of 7, and not of 5."""
    table = keras.Variable(np.zeros([2, 1], "float32"))
    optimizer = DistributedOptimizer(optimizers.SGD(loss_scale_factor=8.0))
    optimizer.build([table])
    optimizer.monitor = Monitor()
    slices = tf.IndexedSlices(tf.constant([[24.0], [32.0]]), tf.constant([1, 1]))
    optimizer.apply([slices], [table])
    assert float(optimizer.monitor.gradient_norm) == 7.0


def test_slices_stay_sparse_where_they_can():
    seen = []

    class Sees(optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen.append(gradient)

    table = keras.Variable(START)
    optimizer = DistributedOptimizer(Sees())
    optimizer.build([table])
    indices = tf.constant([4, 1, 4, 4])
    values = tf.reshape(tf.range(12.0), [4, 3])
    optimizer.apply([tf.IndexedSlices(values, indices)], [table])
    (gradient,) = seen
    assert gradient.indices.numpy().tolist() == [4, 1]
    assert gradient.values.numpy().tolist() == [[15, 18, 21], [3, 4, 5]]
    optimizer.apply([tf.IndexedSlices(values[:0], indices[:0])], [table])
    assert seen[1].values.shape == (0, 3)


# --- tf-keras -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "strategy", "clip"),
    some(
        itertools.product(
            ["optimizers", "optimizers.legacy"],
            ["none", "mirrored"],
            ["clipnorm", "global_clipnorm", "clipvalue"],
        ),
        3,
    ),
)
def test_tf_keras_clips_slices_added_up(kind, strategy, clip):
    tf_keras = pytest.importorskip("tf_keras")
    module = tf_keras.optimizers.legacy if "legacy" in kind else tf_keras.optimizers

    def trained(strategy, wrap, dense):
        with strategy.scope():
            table = tf.Variable(START)
            optimizer = wrap(module.Adam(0.1, **{clip: 0.05}))

        def replica_step(ids, weights):
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            first, last = bounds[me], bounds[me + 1]
            with tf.GradientTape() as tape:
                loss = loss_of(table, ids[first:last], weights[first:last], dense)
            optimizer.apply_gradients([(tape.gradient(loss, table), table)])

        bounds = tf.constant(BOUNDS[strategy.num_replicas_in_sync])
        step = tf.function(lambda *batch: strategy.run(replica_step, batch))
        for ids, weights in zip(IDS, WEIGHTS, strict=True):
            step(tf.constant(ids), tf.constant(weights))
        return table.numpy()

    wanted = trained(strategy_of("none"), bare, dense=True)
    got = trained(strategy_of(strategy), DistributedOptimizer, dense=False)
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted - START).max()
    plain = trained(strategy_of("none"), bare, dense=False)
    assert np.abs(plain - wanted).max() > 1e-3 * np.abs(wanted - START).max()


# --- upstream -------------------------------------------------------------------


def test_tensorflow_says_whether_xla_compiles_what_is_traced():
    """_sparse.is_compiled asks it, in functions within functions too."""
    seen = []
    for xla in (False, True):
        inner = tf.function(lambda x: seen.append(is_compiled()) or x)
        outer = tf.function(lambda x, f=inner: f(x) + 1, jit_compile=xla)
        outer(tf.constant(1.0))
    assert seen == [False, True]
    assert not is_compiled()

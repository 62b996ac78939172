"""Sums over replicas that are checked: a wrong one is caught in its step and named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from chosen import some
from conftest import strategy_of
from faults import KINDS, SENT, faulty
from own_models import MeanOfRows

import distloss
from distloss.replicas.pairs import pairs_with_wrong_sums

pytestmark = pytest.mark.slow

ROWS, REPLICAS = 16, 4
_rng = np.random.default_rng(3)
X = _rng.normal(size=(ROWS, 5)).astype("float32")
Y = _rng.normal(size=(ROWS, 3)).astype("float32")


def made(optimizer=None, **compiled):
    hidden = keras.layers.Dense(40, "tanh", name="hidden")
    model = keras.Sequential(
        [keras.Input((5,)), hidden, keras.layers.Dense(3, name="outer")], name="net"
    )
    compiled = {"loss": "mse", "jit_compile": False, **compiled}
    model.compile(optimizer or keras.optimizers.Adam(0.01), **compiled)
    return model


def step(model, x=X, y=Y):
    """A step of `fit`, of which each replica gets its rows.

    Without iterators of data sets, that take a minute to be destroyed where a step
    raises; train_on_batch would give all rows to each replica.
    """
    strategy = model.distribute_strategy
    count = strategy.num_replicas_in_sync
    if model.train_function is None:
        model._maybe_symbolic_build(data_batch=(x[:1], y[:1]))
        model.make_train_function()

    def part(array):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                np.split(array, count)[context.replica_id_in_sync_group]
            )
        )

    data = (x, y) if count == 1 else (part(x), part(y))
    model.train_function(iter([data]))


def state_of(model):
    variables = [*model.trainable_weights, *model.optimizer.variables]
    return [np.array(variable) for variable in variables]


def assert_unchanged(model, before):
    for was, now in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.fixture
def hurt(four):
    """A prepared model, and the fault that may be done to its sums."""
    with four.scope():
        replicas, fault = faulty(distloss.StrategyReplicas())
        model = distloss.prepare(made(), replicas=replicas, check_sums=True)
        yield model, fault


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_wrong_is_caught_in_its_step(hurt, kind):
    model, fault = hurt
    for _ in range(3):
        step(model)
    before = state_of(model)
    fault.kind, fault.at = kind, 2
    with pytest.raises(distloss.CorruptedSumError) as raised:
        step(model)
    assert_unchanged(model, before)
    error = raised.value
    assert error.step == 4
    assert error.replicas == (2,)
    assert "replica 2 (CPU:2)" in str(error)
    if kind not in SENT:
        assert error.variables == ("net/hidden/kernel",)
    fault.kind = None
    step(model)
    assert model.optimizer.iterations.numpy() == 4


def prepared_with_fault(model=None, **arguments):
    replicas, fault = faulty(distloss.StrategyReplicas())
    model = model or made()
    return distloss.prepare(
        model, replicas=replicas, check_sums=True, **arguments
    ), fault


def caught(model, fault, kind, at=1, run=step):
    """What a healthy step and then a hurt one raise; no weight has changed."""
    run(model)
    before = state_of(model)
    fault.kind, fault.at = kind, at
    with pytest.raises(distloss.CorruptedSumError) as raised:
        run(model)
    assert_unchanged(model, before)
    assert raised.value.step == 2
    assert raised.value.replicas == (at,)
    return raised.value


@pytest.mark.parametrize("kind", ["dropped", "flipped"])
def test_collectives_of_a_ring_are_checked(kind):
    with strategy_of("collective").scope():
        caught(*prepared_with_fault(), kind)


@pytest.mark.parametrize("kind", ["stale", "nan"])
def test_eager_steps_are_checked(four, kind):
    with four.scope():
        caught(*prepared_with_fault(made(run_eagerly=True)), kind)


@pytest.mark.parametrize("kind", ["doubled", "swapped"])
def test_steps_in_parts_are_checked(four, kind):
    with four.scope():
        caught(*prepared_with_fault(microbatches=2), kind)


@pytest.mark.parametrize("kind", ["dropped", "flipped"])
def test_steps_of_ones_own_are_checked(four, kind):
    with four.scope():
        model = MeanOfRows([keras.Input((5,)), keras.layers.Dense(3)], name="own")
        model.compile("adam", jit_compile=False)
        caught(*prepared_with_fault(model), kind)


def test_fit_raises_it_too(hurt):
    model, fault = hurt
    fault.kind, fault.at = "dropped", 3
    with pytest.raises(distloss.CorruptedSumError, match="the part of replica 3"):
        model.fit(X, Y, batch_size=ROWS, verbose=0)


def embedding():
    words = keras.layers.Embedding(50, 6, name="words")
    inner = keras.Input((4,), dtype="int32")
    pooled = keras.layers.GlobalAveragePooling1D()(words(inner))
    return keras.Model(inner, keras.layers.Dense(3, name="outer")(pooled))


IDS = np.arange(4 * ROWS).reshape(ROWS, 4) % 50


@pytest.mark.parametrize("kind", some(["dropped", "doubled", "flipped", "nan"], 2))
def test_sparse_gradients_are_checked(four, kind):
    with four.scope():
        model = embedding()
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        model, fault = prepared_with_fault(model)
        error = caught(model, fault, kind, run=lambda m: step(m, IDS))
    if kind in ("flipped", "nan"):
        assert error.variables == ("words/embeddings",)


def test_slices_in_another_order_are_the_same_sum(four):
    """They mean the same gradient."""

    class Reversed(distloss.StrategyReplicas):
        def sum_gradients(self, local, name="gradients"):
            return [
                tf.IndexedSlices(s.values[::-1], s.indices[::-1], s.dense_shape)
                if isinstance(s, tf.IndexedSlices)
                else s
                for s in super().sum_gradients(local, name)
            ]

    with four.scope():
        model = embedding()
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        distloss.prepare(model, replicas=Reversed(), check_sums=True)
        step(model, IDS)


# -- a loop of one's own


class Loop:
    """Steps of SGD on gradients that are given, one for each replica."""

    def __init__(self, strategy, *, dtype="float32", start=1.0, size=64, **arguments):
        self.strategy = strategy
        with strategy.scope():
            self.replicas, self.fault = faulty(distloss.StrategyReplicas())
            self.weight = keras.Variable(np.full(size, start), dtype=dtype, name="w")
            rule = arguments.pop("rule", keras.optimizers.SGD)(0.1)
            arguments = {"check_sums": True, **arguments}
            self.optimizer = distloss.DistributedOptimizer(
                rule, replicas=self.replicas, **arguments
            )
            self.optimizer.build([self.weight])

        @tf.function
        def step(gradients):
            def of_one():
                mine = tf.cast(gradients[self.replicas.index()], self.weight.dtype)
                self.optimizer.apply_gradients([(mine, self.weight)])

            strategy.run(of_one)

        self.step = step

    def __call__(self, gradients):
        with distloss.sum_errors():
            self.step(tf.constant(gradients, tf.float32))

    def values(self):
        return np.array(self.weight.value.numpy(), "float64")


def gradients_of(scale=1.0, size=64, seed=1):
    return scale * np.random.default_rng(seed).normal(size=(REPLICAS, size))


@pytest.mark.parametrize("kind", some(KINDS, 3))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_checked(four, dtype, kind):
    loop = Loop(four, dtype=dtype, size=1024)
    loop(gradients_of(size=1024))
    before = loop.values()
    loop.fault.kind, loop.fault.at = kind, 3
    with pytest.raises(distloss.CorruptedSumError) as raised:
        loop(gradients_of(size=1024, seed=2))
    assert (raised.value.step, raised.value.replicas) == (2, (3,))
    np.testing.assert_array_equal(loop.values(), before)


def test_accumulated_sums_are_checked(four):
    with four.scope():
        loss = distloss.DistributedLoss("mse")
        model = made(loss=loss)
        replicas, fault = faulty(distloss.StrategyReplicas())
        model.optimizer = distloss.DistributedOptimizer(
            model.optimizer,
            replicas=replicas,
            accumulation_steps=2,
            loss=loss,
            check_sums=True,
        )
        distloss.prepare(model, check_sums=True)
        step(model)
        before = state_of(model)
        step(model)
        assert not all(map(np.array_equal, before, state_of(model)))
        step(model)
        before = state_of(model)
        fault.kind, fault.at = "doubled", 2
        with pytest.raises(distloss.CorruptedSumError) as raised:
            step(model)
    assert (raised.value.step, raised.value.replicas) == (2, (2,))
    assert_unchanged(model, before)


def test_without_sum_errors_the_text_is_in_the_error_of_tensorflow(four):
    loop = Loop(four)
    loop.fault.kind = "dropped"
    with pytest.raises(tf.errors.OpError, match=r"of replica 0 .* is missing"):
        loop.step(tf.constant(gradients_of(), tf.float32))


def test_other_errors_are_left_alone(four):
    loop = Loop(four)
    loop.fault.kind = "dropped"
    with pytest.raises(tf.errors.OpError):
        loop.step(tf.constant(gradients_of(), tf.float32))
    with pytest.raises(tf.errors.InvalidArgumentError), distloss.sum_errors():
        tf.debugging.assert_equal(tf.constant(1), 2)
    with pytest.raises(ZeroDivisionError), distloss.sum_errors():
        1 / 0  # noqa: B018


# -- pairs


def test_pairs_that_stay_wrong_are_named(four):
    class BadPair(distloss.StrategyReplicas):
        """Replica 3 gets wrong what 1 sends, as over a bad wire."""

        def sum_gradients(self, local, name="gradients"):
            sums = super().sum_gradients(local, name)
            context_index = self.index()
            sent = tf.reduce_max(tf.abs(local[-1]))
            alone = tf.where(context_index == 1, sent, 0.0)
            [by_first] = super().sum_gradients([alone], "by_first")
            bad = tf.logical_and(context_index == 3, by_first > 0)
            others = tf.where(context_index == 3, sent, 0.0)
            [by_third] = super().sum_gradients([others], "by_third")
            bad = tf.logical_and(bad, by_third > 0)
            return [tf.where(bad, s * 1.5, s) for s in sums]

    with four.scope():
        model = distloss.prepare(made(), replicas=BadPair(), check_sums=True)
        with pytest.raises(distloss.CorruptedSumError) as raised:
            step(model)
    assert raised.value.pairs == ((1, 3),)
    assert raised.value.replicas == (3,)
    assert "wrong for 1 and 3" in str(raised.value)


def test_pairs_that_are_right_again_are_said_to_be(hurt):
    model, fault = hurt
    once = fault.received

    def and_never_again(*arguments):
        changed = once(*arguments)
        fault.kind = None if arguments[0] == fault.at else fault.kind
        return changed

    fault.received = and_never_again
    fault.kind, fault.at = "flipped", 1
    with pytest.raises(distloss.CorruptedSumError, match="it did not last") as raised:
        step(model)
    assert raised.value.pairs == ()


def test_pairs_of_healthy_replicas_are_right(four):
    assert pairs_with_wrong_sums(distloss.StrategyReplicas(), four) == ()

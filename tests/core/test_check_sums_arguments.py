"""check_sums and on_nonfinite: what they take, what files hold, what graphs cost."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from test_check_sums import IDS, Loop, X, Y, embedding, gradients_of, made, step

import distloss
from distloss import DistributedOptimizer
from distloss._errors import ArgumentError, ArgumentTypeError, ContextError

pytestmark = pytest.mark.slow

WRONG = [
    ({"check_sums": "yes"}, ArgumentTypeError, "Expected check_sums= to be True or"),
    ({"on_nonfinite": "skip"}, ArgumentError, "Expected check_sums=True beside"),
    (
        {"check_sums": True, "on_nonfinite": "ignore"},
        ArgumentError,
        "Got on_nonfinite='ignore'",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "said"), WRONG)
def test_wrong_arguments_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        DistributedOptimizer("sgd", **arguments)
    model = made()
    with pytest.raises(error, match=said):
        distloss.prepare(model, **arguments)
    assert not isinstance(model.optimizer, DistributedOptimizer)


def test_configs_hold_them_only_where_they_were_given():
    assert "check_sums" not in DistributedOptimizer("sgd").get_config()
    given = DistributedOptimizer("sgd", check_sums=True, on_nonfinite="warn")
    again = DistributedOptimizer.from_config(given.get_config())
    assert again.get_config() == given.get_config()
    assert again.get_config()["on_nonfinite"] == "warn"


def test_models_that_were_saved_check_on(tmp_path):
    model = made(DistributedOptimizer("sgd", check_sums=True))
    step(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.compile(loaded.optimizer, "mse", jit_compile=False)
    assert loaded.optimizer.get_config()["check_sums"]
    x = np.where(np.isfinite(X), np.nan, X)
    with distloss.sum_errors(), pytest.raises(tf.errors.OpError, match="not finite"):
        step(loaded, x)


def test_optimizers_that_check_can_be_copied():
    optimizer = DistributedOptimizer("sgd", check_sums=True)
    assert copy.deepcopy(optimizer).get_config() == optimizer.get_config()


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_model_that_was_prepared_can_be_told_to_check(four, wrapped):
    with four.scope():
        model = made(DistributedOptimizer("sgd") if wrapped else None)
        distloss.prepare(model)
        distloss.prepare(model, check_sums=True)
        distloss.prepare(model)  # changes nothing
        x = X.copy()
        x[9] = np.nan
        with pytest.raises(distloss.NonfiniteGradientError):
            step(model, x)


def test_steps_that_xla_compiles_are_refused():
    model = distloss.prepare(made(jit_compile=True), check_sums=True)
    with pytest.raises(ContextError, match="Expected a step that XLA does not compile"):
        step(model)


def operations_of(model):
    """Those of a step on all replicas, by type."""
    strategy = model.distribute_strategy
    model.optimizer.build(model.trainable_weights)
    x, y = (tf.constant(array[: len(array) // 4]) for array in (X, Y))

    @tf.function
    def run():
        return strategy.run(model.train_step, args=((x, y),))

    graph = run.get_concrete_function().graph
    return [operation.type for operation in graph.get_operations()]


def collectives_in(operations):
    return sum(kind.startswith("Collective") for kind in operations)


def test_there_is_no_collective_more():
    """Over a ring; and what is not asked for costs no operation."""
    with strategy_of("collective").scope():
        plain = operations_of(distloss.prepare(made()))
        again = operations_of(distloss.prepare(made()))
        checked = operations_of(distloss.prepare(made(), check_sums=True))
    assert collectives_in(checked) == collectives_in(plain) > 0
    assert sorted(plain) == sorted(again)
    assert not {"If", "PyFunc", "Bitcast", "StatelessRandomUniformFullIntV2"} & set(
        plain
    )
    assert {"If", "Bitcast", "StatelessRandomUniformFullIntV2"} <= set(checked)


def test_the_numbers_travel_in_one_call(four):
    """Also where gradients are sparse."""
    calls = []

    class Counted(distloss.StrategyReplicas):
        def sum_gradients(self, local, name="gradients"):
            calls.append(len(local))
            return super().sum_gradients(local, name)

    with four.scope():
        model = embedding()
        model.compile("sgd", "mse", jit_compile=False)
        distloss.prepare(model, replicas=Counted(), check_sums=True)
        step(model, IDS)
    assert calls == [3 + 1 + 1] * 4  # gradients, the denominator, the numbers


def test_the_update_waits_for_the_verdict(four):
    """In the graph, and not by chance: no assignment is without it."""
    loop = Loop(four)
    loop(gradients_of())
    [concrete] = loop.step._list_all_concrete_functions()
    operations = concrete.graph.get_operations()
    assigns = [x for x in operations if x.type.startswith(("Assign", "ResourceApply"))]
    assert len(assigns) >= 4
    [verdict] = [x for x in operations if x.type in ("If", "StatelessIf")]
    for assign in assigns:
        assert verdict in reached_from(assign), assign.name


def reached_from(operation):
    """All operations that must have run before one."""
    found, todo = set(), [operation]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += [*one.control_inputs, *(value.op for value in one.inputs)]
    return found


# -- tf-keras


def made_of_tf_keras(optimizer):
    tf_keras = pytest.importorskip("tf_keras")
    hidden = tf_keras.layers.Dense(40, "tanh", name="hidden", input_shape=(5,))
    model = tf_keras.Sequential([hidden, tf_keras.layers.Dense(3, name="outer")])
    model.compile(optimizer(tf_keras.optimizers), "mse")
    return model


def step_of_tf_keras(model, x=X, y=Y):
    strategy = model.distribute_strategy
    data = tf.data.Dataset.from_tensors((x, y)).unbatch().batch(len(x))
    model.make_train_function()
    model.train_function(iter(strategy.experimental_distribute_dataset(data)))


def weights_of(model):
    return [weight.numpy() for weight in model.trainable_variables]


def test_tf_keras_checks_too(four):
    from faults import faulty

    with four.scope():
        replicas, fault = faulty(distloss.StrategyReplicas())
        model = made_of_tf_keras(lambda optimizers: optimizers.Adam(0.01))
        distloss.prepare(model, replicas=replicas, check_sums=True)
        step_of_tf_keras(model)
        before = weights_of(model)
        fault.kind, fault.at = "dropped", 1
        with pytest.raises(distloss.CorruptedSumError) as raised:
            step_of_tf_keras(model)
        assert (raised.value.step, raised.value.replicas) == (2, (1,))
        fault.kind = None
        x = X.copy()
        x[9] = np.nan
        with pytest.raises(distloss.NonfiniteGradientError, match="on replica 2 "):
            step_of_tf_keras(model, x)
    assert all(map(np.array_equal, before, weights_of(model)))


def test_tf_keras_counts_overflow_under_a_loss_scale(four):
    def scaled(optimizers):
        from tf_keras.mixed_precision import LossScaleOptimizer

        return LossScaleOptimizer(optimizers.SGD(0.1))

    with four.scope():
        model = distloss.prepare(made_of_tf_keras(scaled), check_sums=True)
        x = X.copy()
        x[9] = np.inf
        step_of_tf_keras(model, x)
        before = weights_of(model)
        assert model.optimizer.inner_optimizer.nonfinite_steps == 1
        step_of_tf_keras(model)
    assert not all(map(np.array_equal, before, weights_of(model)))


def test_tf_keras_cannot_skip():
    with pytest.raises(ArgumentError, match="Got on_nonfinite='skip'"):
        distloss.prepare(
            made_of_tf_keras(lambda optimizers: optimizers.SGD(0.1)),
            check_sums=True,
            on_nonfinite="skip",
        )


# -- what is relied on upstream


def test_tensorflow_keeps_the_text_of_an_error_in_python():
    """optimizers.sum_errors finds the error by it."""

    def fails(_):
        raise distloss.CorruptedSumError("said so")

    @tf.function
    def step():
        return tf.numpy_function(fails, [1.0], tf.bool)

    with pytest.raises(tf.errors.OpError, match="said so") as raised:
        step()
    assert not isinstance(raised.value, distloss.CorruptedSumError)


def test_tensorflow_draws_the_same_numbers_for_a_key_and_counter():
    """_formula.checksum_rows draws weights by it: all replicas must draw the same."""
    from distloss._formula import checksum_rows

    drawn = checksum_rows.drawn(tf.constant(5, tf.int64), 4).numpy()
    again = checksum_rows.drawn(tf.constant(5, tf.int64), 4000).numpy()
    np.testing.assert_array_equal(drawn, again[:4])
    other = checksum_rows.drawn(tf.constant(6, tf.int64), 4).numpy()
    assert (drawn != other).all()
    magnitudes = np.abs(again)
    assert magnitudes.min() >= 0.5
    assert magnitudes.max() <= 1.0
    assert abs(again.mean()) < 0.05

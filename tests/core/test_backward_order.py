"""Gradients are computed in the order in which they are sent, whatever the graph."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import strategy_of
from hypothesis import given, settings
from hypothesis import strategies as st

from distloss import StrategyReplicas
from distloss.replicas import horovod_calls
from distloss.replicas.backward_order import one_after_the_other

pytestmark = pytest.mark.as_users_run
WIDTH = 4


def ancestors(operation):
    """What is computed before `operation`, whatever the order of the others."""
    found, rest = set(), [operation]
    while rest:
        one = rest.pop()
        for before in [*(tensor.op for tensor in one.inputs), *one.control_inputs]:
            if before not in found:
                found.add(before)
                rest.append(before)
    return found


def gradients_of(model, order=None):
    """A function of their values, last first, after `order`; and its tensors."""
    tensors = []

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x)))
        weights = [v.value for v in reversed(model.trainable_variables)]
        found = tape.gradient(loss, weights)
        if order is not None:
            order(found)
        tensors.extend(found)
        return found

    return gradients, tensors


def model_of(depth):
    layers = [keras.layers.Dense(WIDTH, "tanh") for _ in range(depth)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def are_in_turn(tensors):
    pairs = itertools.pairwise(tensor.op for tensor in tensors)
    return [first in ancestors(second) for first, second in pairs]


@pytest.mark.parametrize("order", [None, one_after_the_other])
def test_gradients_are_computed_in_the_order_given(order):
    model = model_of(4)
    gradients, tensors = gradients_of(model, order)
    x = np.random.default_rng(0).normal(size=(3, WIDTH)).astype("float32")
    found = gradients(x)
    in_turn = are_in_turn(tensors)
    # Without it they are computed in any order.
    assert all(in_turn) if order else not any(in_turn)
    plain, _ = gradients_of(model)
    for one, other in zip(found, plain(x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_leads_to_the_layers_below_waits_too():
    model = model_of(3)
    gradients, tensors = gradients_of(model, one_after_the_other)
    gradients(tf.ones((2, WIDTH)))
    kernels = tensors[1::2]  # of the last layer first
    for above, below in itertools.pairwise(kernels):
        from_above = below.op.inputs[1].op  # by the gradient of what the layer gave
        assert above.op in ancestors(from_above)


def of_workers(monkeypatch):
    """Two replicas here, taken for replicas of several workers."""
    monkeypatch.setattr(StrategyReplicas, "is_in_one_process", False)
    strategy, replicas = strategy_of("mirrored", 2), StrategyReplicas(bucket_bytes=1)
    return lambda sums: strategy.run(sums, args=(replicas.sum_gradients,))


def of_horovod(monkeypatch):
    """One process, whose sums are what it has."""
    monkeypatch.setattr(horovod_calls, "run_named", lambda _all, _name, local: local)
    return lambda sums: sums(functools.partial(horovod_calls.reduce_together, **OWN))


OWN = {"name": "gradients", "bucket_bytes": 1}


@pytest.mark.parametrize("engine", [of_workers, of_horovod])
def test_what_is_sent_between_processes_is_computed_in_that_order(engine, monkeypatch):
    on_replicas, made = engine(monkeypatch), []

    def of_one(sum_gradients):
        x = tf.random.uniform([3])
        made.append([tf.exp(x), tf.sin(x)])
        sum_gradients(made[-1])

    tf.function(lambda: on_replicas(of_one)).get_concrete_function()
    assert all(are_in_turn(reversed(tensors)) == [True] for tensors in made)


def test_eager_tensors_and_those_of_another_graph_are_left_alone():
    one = tf.ones(2)
    one_after_the_other([one, tf.ones(2)])
    with tf.Graph().as_default():
        made = [tf.ones(2) + 1.0, tf.ones(2) + 2.0]
    with tf.Graph().as_default():
        one_after_the_other(made)
        one_after_the_other([one, tf.ones(2) + 1.0])
    assert are_in_turn(made) == [False]


def test_what_has_a_state_is_computed_as_it_was_made():
    @tf.function
    def run(x):
        second = with_a_state(tf.tanh(x))
        first = with_a_state(x)  # for which TensorFlow lets this wait
        one_after_the_other([first, second])
        return first, second

    np.testing.assert_allclose(run(tf.ones(2))[1], np.tanh(np.tanh(np.ones(2))))


def with_a_state(x):
    return tf.ensure_shape(tf.numpy_function(np.tanh, [x], x.dtype), x.shape)


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.slow
def test_no_operations_wait_for_each_other_whatever_the_graph(data):
    kinds = ["add", "matmul", "tanh", "read", "assign", "python", "cond", "while"]
    steps = data.draw(
        st.lists(
            st.tuples(st.sampled_from(kinds), st.integers(0, 99), st.integers(0, 99)),
            min_size=2,
            max_size=14,
        )
    )
    places = data.draw(st.lists(st.integers(0, 99), min_size=2, max_size=6))
    expected = numbers_of(steps, places, None)
    ordered = numbers_of(steps, places, one_after_the_other)
    for one, other in zip(ordered, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def numbers_of(steps, places, order):
    """What `places` of a graph come to that is made of `steps`."""
    variable = tf.Variable(np.arange(4.0, dtype="float32").reshape(2, 2))

    @tf.function
    def run():
        known = [tf.eye(2), variable + 1.0]
        for kind, one, other in steps:
            a, b = known[one % len(known)], known[other % len(known)]
            known.append(MAKE[kind](a, b, variable))
        chosen = [known[place % len(known)] for place in places]
        if order is not None:
            order(chosen)
        variable.assign_add(chosen[-1])
        return [*chosen, variable.read_value()]

    return run()


def assigned(a, variable):
    variable.assign(tf.tanh(a))
    return a * 2.0


MAKE = {
    "add": lambda a, b, _: a + b,
    "matmul": lambda a, b, _: tf.tanh(tf.matmul(a, b)),
    "tanh": lambda a, _b, _: tf.tanh(a),
    "read": lambda a, _b, variable: tf.tanh(a + variable),
    "assign": lambda a, _b, variable: assigned(a, variable),
    "python": lambda a, _b, _: with_a_state(a),
    "cond": lambda a, b, _: tf.cond(tf.reduce_sum(a) > 0, lambda: a, lambda: b),
    "while": lambda a, b, _: tf.while_loop(
        lambda i, _x: i < 2, lambda i, x: (i + 1, tf.tanh(x + b)), (0, a)
    )[1],
}

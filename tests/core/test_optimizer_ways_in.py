"""Whatever way gradients come in, a rule sees the sums over replicas, once."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import since_keras
from conftest import strategy_of
from keras import optimizers

import distloss
from distloss import DistributedLoss, DistributedOptimizer, prepare
from distloss._errors import ArgumentTypeError, ContextError

FEATURES, STEPS = 4, 2
RNG = np.random.default_rng(11)
X = RNG.normal(size=(STEPS, 9, FEATURES)).astype("float32")
Y = RNG.normal(size=(STEPS, 9)).astype("float32")
START = RNG.normal(size=FEATURES).astype("float32")
BOUNDS = {1: [0, 9], 4: [0, 4, 5, 5, 9]}  # the third of four has no row


def adapted(gradients, variables):
    """Adaptive clipping: by the norm of the variable, as in NFNets."""
    norms = [tf.maximum(tf.norm(tf.convert_to_tensor(v)), 1e-3) for v in variables]
    return [
        tf.clip_by_norm(gradient, 0.3 * norm)
        for gradient, norm in zip(gradients, norms, strict=True)
    ]


class ByPairs(optimizers.SGD):
    def apply_gradients(self, grads_and_vars):
        gradients, variables = zip(*grads_and_vars, strict=True)
        clipped = adapted(gradients, variables)
        return super().apply_gradients(zip(clipped, variables, strict=True))


class ByApply(optimizers.SGD):
    def apply(self, grads, trainable_variables=None):
        super().apply(adapted(grads, trainable_variables), trainable_variables)


class ByMinimize(optimizers.SGD):
    def minimize(self, loss, var_list, tape):
        gradients = tape.gradient(loss, [v.value for v in var_list])
        self.apply_gradients(zip(gradients, var_list, strict=True))


class ByBoth(ByPairs, ByApply):
    pass


class ScaledByPairs(optimizers.LossScaleOptimizer):
    def apply_gradients(self, grads_and_vars):
        gradients, variables = zip(*grads_and_vars, strict=True)
        # an own rule for what is not finite, and for what is large
        norm = tf.linalg.global_norm([g / self.dynamic_scale for g in gradients])
        shrunk = [g * tf.minimum(1.0, 0.3 / norm) for g in gradients]
        return super().apply_gradients(zip(shrunk, variables, strict=True))


def by_pairs(optimizer, tape, loss, variable):
    gradient = tape.gradient(loss, variable.value)
    optimizer.apply_gradients([(gradient, variable)])


def by_apply(optimizer, tape, loss, variable):
    optimizer.apply([tape.gradient(loss, variable.value)], [variable])


def by_minimize(optimizer, tape, loss, variable):
    optimizer.minimize(loss, [variable], tape)


WAYS = {
    "apply_gradients": (lambda: ByPairs(0.5), by_pairs),
    "apply": (lambda: ByApply(0.5), by_apply),
    "apply by pairs": (lambda: ByApply(0.5), by_pairs),
    "around apply": (lambda: ByPairs(0.5, momentum=0.5), by_apply),
    "both": (lambda: ByBoth(0.5), by_pairs),
    "minimize": (lambda: ByMinimize(0.5, clipnorm=0.3), by_minimize),
    "loss scale within": (
        lambda: optimizers.LossScaleOptimizer(ByApply(0.5), initial_scale=4.0),
        by_pairs,
    ),
    "loss scale": (
        lambda: ScaledByPairs(optimizers.SGD(0.5), initial_scale=4.0),
        by_pairs,
    ),
}


def trained(strategy, way, wrap, loss):
    """The variable after `STEPS` batches."""
    make, update = WAYS[way]
    with strategy.scope():
        variable, optimizer = keras.Variable(START), wrap(make())
        optimizer.build([variable])

    def replica_step(x, y, bounds):
        me = tf.distribute.get_replica_context().replica_id_in_sync_group
        mine = slice(bounds[me], bounds[me + 1])
        with tf.GradientTape() as tape:
            y_pred = tf.linalg.matvec(x[mine], variable.value)
            value = optimizer.scale_loss(loss(y[mine], y_pred))
        update(optimizer, tape, value, variable)

    step = tf.function(
        lambda *batch: strategy.run(replica_step, batch), autograph=False
    )
    bounds = tf.constant(BOUNDS[strategy.num_replicas_in_sync])
    for x, y in zip(X, Y, strict=True):
        step(tf.constant(x), tf.constant(y), bounds)
    return variable.numpy(), optimizer


def plain_loss(y, y_pred):
    return tf.reduce_mean((y - y_pred) ** 2)


def bare(optimizer):
    return optimizer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["none", "mirrored"])
def test_a_rule_sees_the_sums(way, kind):
    wanted, _ = trained(strategy_of("none"), way, bare, plain_loss)
    loss = DistributedLoss(lambda y, y_pred: (y - y_pred) ** 2)
    got, optimizer = trained(strategy_of(kind), way, DistributedOptimizer, loss)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    rule = getattr(optimizer, "inner_optimizer", optimizer)
    assert int(rule.iterations.numpy()) == STEPS


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["none", "mirrored"])
def test_a_rule_sees_the_sums_of_a_window(way, kind):
    """Both batches as one."""
    make, update = WAYS[way]
    variable, optimizer = keras.Variable(START), make()
    optimizer.build([variable])
    with tf.GradientTape() as tape:
        y_pred = tf.linalg.matvec(np.concatenate(X), variable.value)
        value = optimizer.scale_loss(plain_loss(np.concatenate(Y), y_pred))
    update(optimizer, tape, value, variable)

    loss = DistributedLoss(lambda y, y_pred: (y - y_pred) ** 2)

    def accumulating(rule):
        return DistributedOptimizer(rule, accumulation_steps=STEPS, loss=loss)

    got, _ = trained(strategy_of(kind), way, accumulating, loss)
    np.testing.assert_allclose(got, variable.numpy(), rtol=1e-5, atol=1e-6)


def test_flush_goes_the_way_of_fit():
    """A window that is not full is one batch, of which the rule sees the sums."""
    variable, rule = keras.Variable(START), ByPairs(0.5)
    by_gradient = tf.linalg.matvec(X[0], Y[0], transpose_a=True) * 2.0 / 9.0
    loss = DistributedLoss(lambda y, y_pred: y * y_pred * 2.0)
    optimizer = DistributedOptimizer(rule, accumulation_steps=3, loss=loss)
    optimizer.build([variable])
    with tf.GradientTape() as tape:
        value = loss(Y[0], tf.linalg.matvec(X[0], variable.value))
    by_pairs(optimizer, tape, value, variable)
    optimizer.flush()
    (clipped,) = adapted([by_gradient], [START])
    assert float(tf.norm(clipped)) < float(tf.norm(by_gradient)) - 0.1
    np.testing.assert_allclose(variable.numpy(), START - 0.5 * clipped, rtol=1e-5)


@since_keras(3, 5)
@pytest.mark.slow
def test_a_prepared_model_shows_a_rule_the_sums(four):
    def fitted(strategy, wrap):
        with strategy.scope():
            keras.utils.set_random_seed(1)
            model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
            model.compile(ByPairs(0.5), "mse")
        data = np.concatenate(X), np.concatenate(Y)
        wrap(model).fit(*data, batch_size=8, shuffle=False, verbose=0)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    wanted = fitted(strategy_of("none"), bare)
    prepared = fitted(four, distloss.prepare)
    np.testing.assert_allclose(prepared, wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(fitted(four, bare) - wanted).max() > 1e-2


def test_stateless_apply_is_refused_as_keras_refuses_it():
    variable = keras.Variable(START)
    optimizer = DistributedOptimizer(optimizers.SGD())
    optimizer.build([variable])
    values = [v.value for v in optimizer.variables]
    with pytest.raises(ValueError, match="stateless_apply is not supported"):
        optimizer.stateless_apply(values, [tf.ones(FEATURES)], [variable.value])


def test_a_loss_scale_with_a_rule_of_its_own_is_not_taken_over():
    """It has seen local gradients by then."""
    variable = keras.Variable(START)
    scaled = ScaledByPairs(DistributedOptimizer(optimizers.SGD()))
    with pytest.raises(ArgumentTypeError, match="ScaledByPairs"):
        scaled.build([variable])


def test_an_error_within_an_update_does_not_end_the_sums():
    """The next step sums again."""

    class Fails(optimizers.SGD):
        fails = True

        def update_step(self, *args):
            if self.fails:
                raise ValueError("once")
            super().update_step(*args)

    variable, rule = keras.Variable(START), Fails(0.5)
    optimizer = DistributedOptimizer(optimizers.LossScaleOptimizer(rule))
    optimizer.build([variable])
    with pytest.raises(ValueError, match="once"):
        optimizer.apply([tf.ones(FEATURES)], [variable])
    assert not optimizer._holds_sums
    assert not optimizer.inner_optimizer._holds_sums


# --- nothing to update ----------------------------------------------------------


def test_nothing_to_update_is_no_error():
    variable = keras.Variable(START)
    for wrap in (bare, optimizers.LossScaleOptimizer):
        optimizer = DistributedOptimizer(wrap(optimizers.Adam()))
        optimizer.build([variable])
        optimizer.apply([], [])
    plain = optimizers.Adam()
    plain.build([variable])
    for rule in (plain, DistributedOptimizer(optimizers.Adam())):
        with pytest.raises(ValueError, match="No gradients provided"):
            rule.apply([None], [variable])
        with pytest.raises(ValueError, match="not enough values"):
            rule.apply_gradients([])


def test_variables_that_their_gradients_overwrite_are_all_that_there_are():
    for wrap in (bare, DistributedOptimizer):
        variable, optimizer = keras.Variable(START), wrap(optimizers.Adam(0.1))
        variable.overwrite_with_gradient = True
        optimizer.build([variable])
        optimizer.apply([tf.ones(FEATURES)], [variable])
        assert variable.numpy().tolist() == [1.0] * FEATURES
        assert int(optimizer.iterations.numpy()) == 1


def overwritten():
    variable = keras.Variable(START, name="scale")
    variable.overwrite_with_gradient = True
    return variable


def test_variables_that_gradients_overwrite_have_no_sum_over_replicas(four):
    with four.scope():
        variable, optimizer = overwritten(), DistributedOptimizer(optimizers.Adam(0.1))
        optimizer.build([variable])
    step = lambda: optimizer.apply([tf.ones(FEATURES)], [variable])  # noqa: E731
    with pytest.raises(ContextError, match="scale, which Keras overwrites"):
        four.run(step)


def test_variables_that_gradients_overwrite_have_no_sum_over_batches():
    loss = DistributedLoss("mse")
    optimizer = DistributedOptimizer("sgd", accumulation_steps=2, loss=loss)
    variable = overwritten()
    with pytest.raises(ContextError, match="accumulation_steps=1"):
        optimizer.apply([tf.ones(FEATURES)], [variable])


def test_variables_that_gradients_overwrite_have_no_sum_over_parts():
    layer = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", "mse")
    layer.bias.overwrite_with_gradient = True
    with pytest.raises(ContextError, match="microbatches=1"):
        prepare(model, microbatches=2).fit(np.ones([8, 2]), np.ones([8, 1]), verbose=0)


def test_a_window_without_any_gradient_keeps_the_error_of_keras():
    loss = DistributedLoss("mse")
    optimizer = DistributedOptimizer("sgd", accumulation_steps=2, loss=loss)
    variable = keras.Variable(START)
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply([None], [variable])
    optimizer.apply([], [])
    assert int(optimizer._window.batches) == 0


# --- windows that reach different variables -------------------------------------


HEADS = RNG.normal(size=(2, FEATURES)).astype("float32")


def heads_trained(order, steps, wrap_function):
    """Two heads after batches that reach the first, the second, or both of them."""
    heads = [keras.Variable(value, name=f"head_{i}") for i, value in enumerate(HEADS)]
    loss = DistributedLoss(lambda y, y_pred: (y - y_pred) ** 2)
    rule = optimizers.SGD(0.5, momentum=0.5)
    optimizer = DistributedOptimizer(rule, accumulation_steps=steps, loss=loss)
    optimizer.build(heads)

    def step_of(reached):
        def step(x, y):
            with tf.GradientTape() as tape:
                y_pred = sum(tf.linalg.matvec(x, heads[i].value) for i in reached)
                value = loss(y, y_pred)
            gradients = tape.gradient(value, [head.value for head in heads])
            optimizer.apply_gradients(zip(gradients, heads, strict=True))

        return wrap_function(step)

    functions = {reached: step_of(reached) for reached in ((0,), (1,), (0, 1))}
    for i, reached in enumerate(order):
        functions[reached](tf.constant(X[i % STEPS]), tf.constant(Y[i % STEPS]))
    return [head.numpy() for head in heads]


def heads_wanted(order, steps):
    """The same in NumPy, each window one batch."""
    heads, momenta = HEADS.astype("float64"), np.zeros(HEADS.shape)
    for first in range(0, len(order), steps):
        sums, count = np.zeros(HEADS.shape), 0
        for i in range(first, first + steps):
            x, y = X[i % STEPS].astype("float64"), Y[i % STEPS]
            error = x @ sum(heads[j] for j in order[i]) - y
            for j in order[i]:
                sums[j] += 2 * x.T @ error
            count += len(y)
        momenta = 0.5 * momenta - 0.5 * sums / count
        heads = heads + momenta
    return list(heads)


ORDERS = {
    "the first is not reached last": [(0,), (1,)] * 2,
    "both, then one": [(0, 1), (1,)] * 2,
    "one, then both": [(1,), (0, 1), (0,), (0, 1)],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wrap_function", [bare, tf.function])
def test_a_window_keeps_what_any_of_its_batches_reaches(order, wrap_function):
    got = heads_trained(ORDERS[order], 2, wrap_function)
    wanted = heads_wanted(ORDERS[order], 2)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.slow
def test_a_function_that_cannot_know_what_others_reached_says_so():
    with pytest.raises(tf.errors.InvalidArgumentError, match="would be lost"):
        heads_trained([(0,), (1,), (1,), (0,)], 2, tf.function)


def test_a_window_of_float64_weighs_in_float64():
    """2**24 + 1 rows are as many."""
    variable = keras.Variable(np.ones(1), dtype="float64")
    loss = DistributedLoss(lambda y, y_pred: y * y_pred, global_batch_size=2**24 + 1)
    optimizer = DistributedOptimizer("sgd", accumulation_steps=2, loss=loss)
    optimizer.build([variable])
    with tf.GradientTape() as tape:
        value = loss(tf.ones(3, tf.float64), tf.ones(3, tf.float64) * variable.value)
    by_pairs(optimizer, tape, value, variable)
    assert float(optimizer._window.denominator) == 2**24 + 1


# --- tf-keras -------------------------------------------------------------------


def of_tf_keras(kind):
    """Two rules of tf-keras that clip by themselves, one takes no other argument."""
    tf_keras = pytest.importorskip("tf_keras")
    module = tf_keras.optimizers.legacy if kind == "legacy" else tf_keras.optimizers

    class Bare(module.SGD):
        def apply_gradients(self, grads_and_vars):
            gradients, variables = zip(*grads_and_vars, strict=True)
            clipped = adapted(gradients, variables)
            return super().apply_gradients(zip(clipped, variables, strict=True))

    class Whole(Bare):
        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            gradients, variables = zip(*grads_and_vars, strict=True)
            clipped = adapted(gradients, variables)
            pairs = zip(clipped, variables, strict=True)
            return module.SGD.apply_gradients(self, pairs, name, **kwargs)

    return {"bare": Bare, "whole": Whole, "scaled": Whole}


@pytest.mark.parametrize("rule", ["bare", "whole", "scaled"])
@pytest.mark.parametrize("kind", ["new", "legacy"])
@pytest.mark.slow
def test_a_rule_of_tf_keras_sees_the_sums(kind, rule, four):
    import tf_keras

    classes = of_tf_keras(kind)

    scale = functools.partial(
        tf_keras.mixed_precision.LossScaleOptimizer, initial_scale=4.0
    )
    scale_or_not = scale if rule == "scaled" else bare

    def trained(strategy, wrap):
        with strategy.scope():
            variable, optimizer = (
                tf.Variable(START),
                wrap(scale_or_not(classes[rule](0.5))),
            )

        def replica_step(x, y, bounds):
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = slice(bounds[me], bounds[me + 1])
            with tf.GradientTape() as tape:
                y_pred = tf.linalg.matvec(x[mine], variable)
                loss = tf.reduce_sum((y[mine] - y_pred) ** 2) / 9.0
                loss = getattr(optimizer, "get_scaled_loss", bare)(loss)
            unscaled = getattr(optimizer, "get_unscaled_gradients", bare)
            gradients = unscaled(tape.gradient(loss, [variable]))
            optimizer.apply_gradients(zip(gradients, [variable], strict=True))

        step = tf.function(lambda *batch: strategy.run(replica_step, batch))
        bounds = tf.constant(BOUNDS[strategy.num_replicas_in_sync])
        for x, y in zip(X, Y, strict=True):
            step(tf.constant(x), tf.constant(y), bounds)
        return variable.numpy()

    wanted = trained(strategy_of("none"), bare)
    got = trained(four, DistributedOptimizer)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["new", "legacy"])
def test_tf_keras_says_as_before_what_has_no_gradient(kind):
    import tf_keras

    module = tf_keras.optimizers.legacy if kind == "legacy" else tf_keras.optimizers
    optimizer = DistributedOptimizer(module.SGD(0.5))
    variable = tf.Variable([1.0])
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply_gradients([(None, variable)])
    done = {"experimental_aggregate_gradients": False}
    optimizer.apply_gradients([(tf.constant([1.0]), variable)], **done)
    assert variable.numpy().tolist() == [0.5]


def test_a_loss_scale_of_tf_keras_with_a_rule_of_its_own_is_refused():
    import tf_keras

    sgd = tf_keras.optimizers.legacy.SGD
    scaled_class = type(tf_keras.mixed_precision.LossScaleOptimizer(sgd(0.5)))

    class Scaled(scaled_class):
        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            return super().apply_gradients(grads_and_vars, name, **kwargs)

    with pytest.raises(ArgumentTypeError, match="Got Scaled with its own"):
        DistributedOptimizer(Scaled(sgd(0.5)))

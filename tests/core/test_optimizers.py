"""DistributedOptimizer: 4 replicas update as one device with plain Keras does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import KERAS, of_this_keras, since_keras
from conftest import strategy_of
from keras import optimizers

import distloss
from distloss import DistributedLoss, DistributedOptimizer, OneDevice
from distloss._errors import ContextError
from distloss._formula import denominators

ROWS, BATCH, EPOCHS, FEATURES, WORDS = 29, 8, 2, 5, 7
RNG = np.random.default_rng(5)
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
IDS = RNG.integers(0, WORDS, (ROWS, 3))
Y = RNG.normal(size=(ROWS, 2)).astype("float32")
START = {
    "kernel": RNG.normal(size=(FEATURES, 2)).astype("float32"),
    "bias": np.zeros(2, "float32"),
    "table": RNG.normal(size=(WORDS, 2)).astype("float32"),
}
# Which of 8 and of 5 rows each replica gets: not the same number, one of 4 nothing.
BOUNDS = {
    1: {8: [0, 8], 5: [0, 5]},
    2: {8: [0, 5, 8], 5: [0, 1, 5]},
    4: {8: [0, 4, 5, 5, 8], 5: [0, 1, 3, 5, 5]},
}


def scheduled():
    return optimizers.schedules.InverseTimeDecay(0.1, 2, 0.5)


def two_optimizers():
    inner = optimizers.OptimizerMap(optimizers.SGD(0.1), {"bias": optimizers.Adam(0.1)})
    return optimizers.MultiOptimizer(inner)


# Gradients have norms of 1 to 4, so each of these clips.
RULES = {
    "SGD": lambda: optimizers.SGD(0.1),
    "clipnorm": lambda: optimizers.SGD(0.1, clipnorm=0.3),
    "clipvalue": lambda: optimizers.SGD(0.1, clipvalue=0.1),
    "global_clipnorm": lambda: optimizers.SGD(0.1, global_clipnorm=0.3),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "schedule": lambda: optimizers.SGD(scheduled(), momentum=0.9),
    "loss_scale_factor": lambda: optimizers.SGD(0.1, loss_scale_factor=8.0, clipnorm=1),
    "use_ema": lambda: optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "ema_overwrite": lambda: optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
    ),
    "Adadelta": lambda: optimizers.Adadelta(0.1),
    "Adafactor": lambda: optimizers.Adafactor(0.1),
    "Adagrad": lambda: optimizers.Adagrad(0.1),
    "Adam": lambda: optimizers.Adam(0.01, global_clipnorm=0.3),
    "Adamax": lambda: optimizers.Adamax(0.01),
    "AdamW": lambda: optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.3),
    "Ftrl": lambda: optimizers.Ftrl(0.1),
    "Lamb": lambda: optimizers.Lamb(0.01),
    "Lion": lambda: optimizers.Lion(0.01),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, clipnorm=0.3)
    ),
    "MultiOptimizer": two_optimizers,
    "Muon": lambda: optimizers.Muon(0.01),
    "Nadam": lambda: optimizers.Nadam(0.01),
    "RMSprop": lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "ScheduleFreeAdamW": lambda: optimizers.ScheduleFreeAdamW(0.01),
}
# Muon of 3.10 to 3.12 asks variables of TensorFlow for a path, which they lack
NEW = {"Lamb": (3, 5), "Muon": (3, 13)}
NEW |= {"MultiOptimizer": (3, 15), "ScheduleFreeAdamW": (3, 14)}
for name, release in NEW.items():
    if release > KERAS:
        del RULES[name]
if KERAS[:2] == (3, 7):  # overwrites in a branch, in which replicas cannot meet
    del RULES["ema_overwrite"]
SPARSE = ("global_clipnorm", "momentum", "Adam")  # these have an embedding as well
LINEAR = ("SGD", "clipnorm", "clipvalue", "global_clipnorm", "momentum", "schedule")
ON_FOUR = (*LINEAR, "use_ema", "ema_overwrite", "Adagrad", "Adam", "AdamW", "Lion")
ON_FOUR = (*ON_FOUR, "LossScaleOptimizer", "RMSprop")  # the others on 2 replicas
CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def start():
    return [keras.Variable(value, name=name) for name, value in START.items()]


def gradients_of(variables, x, ids, y, rows):
    """Of the mean over `rows` rows, of which these are some; that of `table` sparse."""
    kernel, bias, *table = variables
    with tf.GradientTape() as tape:
        y_pred = x @ kernel.value + bias.value
        for words in table:  # most words come twice and more
            y_pred += tf.reduce_mean(tf.gather(words.value, ids), 1)
        loss = tf.reduce_sum((y_pred - y) ** 2) / tf.cast(rows, tf.float32)
    gradients = tape.gradient(loss, [v.value for v in variables])
    assert all(isinstance(gradient, tf.IndexedSlices) for gradient in gradients[2:])
    return gradients


def built(optimizer, is_sparse):
    variables = start() if is_sparse else start()[:2]
    optimizer.build(variables)
    return optimizer, variables


def trained(strategy, names, wrap):
    """Rule -> its variables, the optimizer's too, after `EPOCHS` of short batches."""
    with strategy.scope():
        rules = {name: built(wrap(RULES[name]()), name in SPARSE) for name in names}

    def replica_step(x, ids, y, bounds):
        me = tf.distribute.get_replica_context().replica_id_in_sync_group
        mine = slice(bounds[me], bounds[me + 1])
        for optimizer, variables in rules.values():
            rows = tf.shape(x)[0]
            gradients = gradients_of(variables, x[mine], ids[mine], y[mine], rows)
            if wrap is bare:  # Keras keeps slices apart: see test_sparse
                gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
            scaled = [scale(optimizer, gradient) for gradient in gradients]
            optimizer.apply_gradients(zip(scaled, variables, strict=True))

    arrays = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in (X, IDS, Y)]
    bounds = BOUNDS[strategy.num_replicas_in_sync]

    @tf.function(
        autograph=False, input_signature=[*arrays, tf.TensorSpec([None], "int32")]
    )
    def step(*batch):
        strategy.run(replica_step, batch)

    for _ in range(EPOCHS):
        for first in range(0, ROWS, BATCH):
            batch = [array[first : first + BATCH] for array in (X, IDS, Y)]
            step(*batch, np.int32(bounds[len(batch[0])]))
    return {
        name: [v.numpy() for v in [*variables, *optimizer.variables]]
        for name, (optimizer, variables) in rules.items()
    }


def scale(optimizer, gradient):
    """What `optimizer.scale_loss` of the loss makes of its gradient."""
    factor = optimizer.scale_loss(tf.constant(1.0))
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * factor
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * factor


def largest_difference(got, wanted):
    """Relative to the largest value of each variable."""
    pairs = zip(got, wanted, strict=True)
    return max(np.abs(a - b).max() / max(1e-3, np.abs(b).max()) for a, b in pairs)


def bare(optimizer):
    return optimizer


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.slow
def test_every_rule_updates_as_one_device(count):
    names = [name for name in RULES if (name in ON_FOUR) == (count == 4)]
    wanted = trained(strategy_of("none"), names, bare)
    got = trained(strategy_of("mirrored", count), names, DistributedOptimizer)
    for name in names:
        tolerance = 2e-5 if name in LINEAR else 2e-4
        assert largest_difference(got[name], wanted[name]) < tolerance, name
    for name in set(CLIPPING) & set(names):
        assert largest_difference(wanted["SGD"][:2], wanted[name][:2]) > 1e-2, name


def test_the_rules_are_all_that_keras_has():
    classes = {
        name
        for name, value in vars(optimizers).items()
        if isinstance(value, type) and issubclass(value, optimizers.Optimizer)
    }
    too_new = {name for name, release in NEW.items() if release > KERAS}
    assert classes - {"Optimizer"} <= set(RULES) | too_new


@pytest.mark.slow
def test_the_comparison_rejects_plain_clipping(four):
    wanted = trained(strategy_of("none"), CLIPPING, bare)
    got = trained(four, CLIPPING, bare)
    for name in CLIPPING:
        assert largest_difference(got[name], wanted[name]) > 1e-2, name


# --- overflow -------------------------------------------------------------------

CLEAN, INFINITE = 24, {1: 0, 3: 1, 5: 3}  # batch -> replica whose rows overflow


def overflowing():
    """7 batches of 8 rows; of 1, 3 and 5, one replica's rows are infinite."""
    x = np.random.default_rng(2).normal(size=(56, FEATURES)).astype("float32")
    for batch, replica in INFINITE.items():
        x[8 * batch + 2 * replica, 0] = np.inf
    y = np.random.default_rng(3).normal(size=(56, 2)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def half_trained(strategy, loss, optimizer):
    """Weights, the loss scale and all that optimizers keep; the replicas' copies."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2, dtype="float32")]
        model = keras.Sequential([keras.Input((FEATURES,)), *layers])
        model.dtype_policy = keras.DTypePolicy("mixed_float16")
        layers[0].dtype_policy = model.dtype_policy
        model.compile(optimizer(), loss)  # puts a LossScaleOptimizer around, if none is
    if KERAS < (3, 8) and loss != "mse":
        distloss.prepare(model)
    model.fit(overflowing(), shuffle=False, verbose=0)
    state = [v.numpy() for v in model.optimizer.variables]
    copies = [strategy.experimental_local_results(w.value) for w in model.weights]
    return model.get_weights() + state, copies


def adam():
    return optimizers.Adam(0.1, global_clipnorm=0.3)


def distributed_within():
    return DistributedOptimizer(adam())


def distributed_around():
    return DistributedOptimizer(optimizers.LossScaleOptimizer(adam()))


@since_keras(3, 5)
@pytest.mark.parametrize("optimizer", [distributed_within, distributed_around])
@pytest.mark.slow
def test_overflow_on_one_replica_is_skipped_by_all(optimizer, four):
    wanted, _ = half_trained(strategy_of("none"), "mse", adam)
    got, copies = half_trained(four, DistributedLoss("mse"), optimizer)
    # float16 holds 3 digits, and sums of shards round differently.
    assert largest_difference(got, wanted) < 3e-3
    scalars = [float(value) for value in wanted if not value.shape]
    assert [float(value) for value in got if not value.shape] == scalars
    assert all(np.isfinite(value).all() for value in wanted)
    scale, iterations = 2.0**15 / 2**3, 4
    assert {scale, iterations} <= set(scalars)
    for first, *others in copies:
        assert all(np.array_equal(first, other) for other in others)


@since_keras(3, 5)
@pytest.mark.slow
def test_the_comparison_rejects_plain_overflow(four):
    got, _ = half_trained(four, "mse", adam)
    assert np.isnan(got[0]).any()


def test_tf_keras_optimizers_sum_before_they_clip(four):
    import tf_keras

    def trained(strategy):
        with strategy.scope():
            weight = tf.Variable(START["kernel"])
            rule = tf_keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.3)
            optimizer = DistributedOptimizer(rule)
            optimizer.build([weight])
        bounds = tf.constant(BOUNDS[strategy.num_replicas_in_sync][8])
        x, y = tf.constant(X), tf.constant(Y)

        def replica_step():
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = slice(bounds[me], bounds[me + 1])
            gradient = tf.linalg.matmul(x[mine], y[mine], transpose_a=True)
            optimizer.apply_gradients([(gradient, weight)])

        step = tf.function(lambda: strategy.run(replica_step), autograph=False)
        for _ in range(3):
            step()
        return weight.numpy()

    plain = tf.Variable(START["kernel"])
    rule = tf_keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.3)
    for _ in range(3):
        rule.apply_gradients([(tf.constant(X[:8].T @ Y[:8]), plain)])
    assert largest_difference([trained(four)], [plain.numpy()]) < 2e-5
    assert largest_difference([plain.numpy()], [START["kernel"]]) > 1e-2


# --- accumulation ---------------------------------------------------------------


def batches(rows, size):
    data = X_LONG[:rows], Y_LONG[:rows], WEIGHT_LONG[:rows]
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


X_LONG = RNG.normal(size=(13, FEATURES)).astype("float32")
Y_LONG = RNG.normal(size=(13, 2)).astype("float32")
WEIGHT_LONG = RNG.uniform(0, 9, 13).astype("float32")


def compiled(loss, optimizer):
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(4, "tanh", kernel_regularizer="l2")]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(2)])
    model.compile(optimizer, loss)
    return model


def state_of(model):
    return model.get_weights() + [v.numpy() for v in model.optimizer.variables]


def fitted(model, rows, size, epochs=1):
    options = {"epochs": epochs, "shuffle": False, "verbose": 0}
    history = model.fit(batches(rows, size), **options).history["loss"]
    return [*state_of(model), np.array(history)]


@pytest.mark.parametrize(
    "kind", ["none", pytest.param("mirrored", marks=since_keras(3, 5))]
)
def test_accumulated_batches_are_one_batch(kind):
    """5, 5 and 3 rows are one batch of 13, by their weights; 5 and 3 then one of 8."""
    reduction, *_ = of_this_keras("mean_with_sample_weight", "sum_over_batch_size")
    plain = keras.losses.MeanSquaredError(reduction=reduction)
    whole = compiled(plain, adam())
    wanted = [fitted(whole, 13, 13, epochs=2), fitted(whole, 8, 8)]
    with strategy_of(kind).scope():
        loss = DistributedLoss(plain)
        optimizer = DistributedOptimizer(adam(), accumulation_steps=3, loss=loss)
        model = distloss.prepare(compiled(loss, optimizer))
    assert model.optimizer is optimizer
    full, _ = fitted(model, 13, 5, epochs=2), fitted(model, 8, 5)
    assert largest_difference(full[:-1], wanted[0][:-1]) < 2e-4
    assert int(optimizer.iterations.numpy()) == 2  # the last two are carried over
    optimizer.flush()
    assert largest_difference(state_of(model), wanted[1][:-1]) < 2e-4
    optimizer.flush()  # of nothing
    assert int(optimizer.iterations.numpy()) == 3


def test_accumulated_loss_is_that_of_the_batch():
    whole, loss = compiled("mse", adam()), DistributedLoss("mse")
    optimizer = DistributedOptimizer(adam(), accumulation_steps=3, loss=loss)
    model = compiled(loss, optimizer)
    got, wanted = fitted(model, 13, 5, epochs=2), fitted(whole, 13, 13, epochs=2)
    np.testing.assert_allclose(got[-1], wanted[-1], rtol=1e-5)


def embedded(optimizer, loss, spans):
    """Weights after a custom, eager loop over an embedding and a kernel."""
    variables = start()
    for i, j in spans:
        with tf.GradientTape() as tape:
            words = tf.gather(variables[2].value, IDS[i:j])
            y_pred = X[i:j] @ variables[0].value + tf.reduce_mean(words, 1)
            value = loss(Y[i:j], y_pred)
        loss(Y[:2], Y[:2] + 1.0)  # looked at, not trained on
        gradients = tape.gradient(value, [v.value for v in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return [v.numpy() for v in variables]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_custom_loop_accumulates_sparse_gradients():
    loss = DistributedLoss("mse")
    optimizer = DistributedOptimizer(
        optimizers.SGD(0.1, momentum=0.9), accumulation_steps=2, loss=loss
    )
    got = embedded(optimizer, loss, [(0, 8), (8, 13), (13, 20), (20, 29)])
    plain = optimizers.SGD(0.1, momentum=0.9)
    wanted = embedded(plain, keras.losses.MeanSquaredError(), [(0, 13), (13, 29)])
    assert largest_difference(got, wanted) < 2e-5


def test_accumulation_agrees_on_overflow(four):
    """Inf in one of two batches, on one replica: the window is skipped."""
    with four.scope():
        variable = keras.Variable([1.0])
        loss = DistributedLoss("mse")
        inner = optimizers.LossScaleOptimizer(optimizers.SGD(0.1))
        optimizer = DistributedOptimizer(inner, accumulation_steps=2, loss=loss)
        optimizer.build([variable])

    @tf.function(autograph=False)
    def step(x):
        def replica_step():
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            with tf.GradientTape() as tape:
                y_pred = x[me] * variable.value[tf.newaxis]
                value = optimizer.scale_loss(loss(tf.zeros((1, 1)), y_pred))
            gradients = tape.gradient(value, [variable.value])
            optimizer.apply_gradients(zip(gradients, [variable], strict=True))

        four.run(replica_step)

    clean = tf.ones(4)
    step(clean)
    step(tf.constant([1.0, 1.0, np.inf, 1.0]))
    assert variable.numpy().tolist() == [1.0]
    assert optimizer.dynamic_scale.numpy() == 2.0**14
    step(clean)
    step(clean)
    np.testing.assert_allclose(variable.numpy(), [0.8], rtol=1e-6)  # 1 - 0.1 * 2
    assert int(optimizer.inner_optimizer.iterations.numpy()) == 1


# --- collectives ----------------------------------------------------------------


def collective_count(function):
    graph = function.get_concrete_function().graph.as_graph_def()
    bodies = [graph.node, *(body.node_def for body in graph.library.function)]
    return sum(node.op.startswith("Collective") for body in bodies for node in body)


@pytest.mark.parametrize(
    ("dtypes", "steps", "collectives"),
    [
        (["float32", "float32"], 1, 1),
        (["float32", "float32"], 3, 1),
        (["float32", "float16", "float32"], 1, 2),
    ],
)
def test_one_collective_per_dtype_and_update(dtypes, steps, collectives):
    strategy = strategy_of("collective")
    loss = DistributedLoss("mse", global_batch_size=8)  # has no collective
    with strategy.scope():
        variables = [keras.Variable(tf.ones((3, 2), d), dtype=d) for d in dtypes]
        optimizer = DistributedOptimizer(
            optimizers.Adam(clipnorm=1), accumulation_steps=steps, loss=loss
        )
        optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        def replica_step():
            with tf.GradientTape() as tape:
                y_pred = tf.add_n([tf.cast(v.value, tf.float32) for v in variables])
                value = loss(tf.zeros((3, 2)), y_pred)
            gradients = tape.gradient(value, [v.value for v in variables])
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        strategy.run(replica_step)

    assert collective_count(step) == collectives * strategy.num_replicas_in_sync


# --- state ----------------------------------------------------------------------


def a_step(optimizer, variables, gradient=3.0):
    optimizer.apply([tf.fill(v.shape, gradient) for v in variables], variables)


WRAPPERS = {"bare": bare, "distributed": DistributedOptimizer}


@pytest.mark.parametrize(
    ("saves", "loads"), [("bare", "distributed"), ("distributed", "bare")]
)
@pytest.mark.parametrize("scaled", [False, True])
def test_checkpoints_are_those_of_the_bare_optimizer(saves, loads, scaled, tmp_path):
    def make(kind):
        made = optimizers.Adam(0.1, use_ema=True)
        made = optimizers.LossScaleOptimizer(made) if scaled else made
        return WRAPPERS[kind](made)

    saved, variables = make(saves), start()
    a_step(saved, variables)
    path = tf.train.Checkpoint(optimizer=saved).save(str(tmp_path / "checkpoint"))
    loaded = make(loads)
    loaded.build(start())
    status = tf.train.Checkpoint(optimizer=loaded).restore(path)
    status.assert_existing_objects_matched()
    status.assert_consumed()
    for got, wanted in zip(loaded.variables, saved.variables, strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted.numpy())
    rule = getattr(loaded, "inner_optimizer", loaded)
    assert int(rule.iterations.numpy()) == 1


@pytest.mark.parametrize(
    ("saves", "loads"), [("bare", "distributed"), ("distributed", "bare")]
)
def test_keras_files_are_those_of_the_bare_optimizer(saves, loads, tmp_path):
    saved = compiled("mse", WRAPPERS[saves](adam()))
    fitted(saved, 13, 8)
    saved.save(tmp_path / "model.keras")
    loaded = compiled("mse", WRAPPERS[loads](adam()))
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "model.keras")
    assert largest_difference(state_of(loaded), state_of(saved)) == 0
    assert int(loaded.optimizer.iterations.numpy()) == 2


def test_a_saved_model_trains_on_with_what_it_was_compiled_with(tmp_path):
    loss = DistributedLoss("mse")
    optimizer = DistributedOptimizer(
        optimizers.LossScaleOptimizer(adam()), accumulation_steps=2, loss=loss
    )
    model = compiled(loss, optimizer)
    fitted(model, 13, 8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(optimizer)
    assert loaded.optimizer.get_config() == optimizer.get_config()
    assert isinstance(loaded.optimizer, optimizers.LossScaleOptimizer)
    assert largest_difference(state_of(loaded), state_of(model)) == 0


def test_a_window_is_part_of_a_checkpoint(tmp_path):
    def make():
        loss = DistributedLoss("mse")
        optimizer = DistributedOptimizer(adam(), accumulation_steps=3, loss=loss)
        return compiled(loss, optimizer)

    through, first, second = make(), make(), make()
    wanted = fitted(through, 13, 5)
    fitted(first, 5, 5)
    path = tf.train.Checkpoint(first).save(str(tmp_path / "checkpoint"))
    second.optimizer.build(second.trainable_variables)
    tf.train.Checkpoint(second).restore(path)
    second.fit(batches(13, 5).skip(1), shuffle=False, verbose=0)
    assert largest_difference(state_of(second), wanted[:-1]) < 1e-6


def test_state_is_kept_and_shared():
    plain, variables = optimizers.Adam(0.1, clipnorm=1.0), start()
    a_step(plain, variables)
    optimizer = DistributedOptimizer(plain)
    assert isinstance(optimizer, optimizers.Adam)
    assert optimizer.iterations is plain.iterations
    assert [id(v) for v in optimizer.variables] == [id(v) for v in plain.variables]
    a_step(optimizer, variables)
    optimizer.learning_rate = 0.5
    assert float(plain.learning_rate.numpy()) == 0.5


def test_wrapping_leaves_the_bare_optimizer_as_it_was():
    plain = optimizers.Adam()
    distributed = DistributedOptimizer(plain)
    distributed.build(start())
    assert not plain.built
    assert len(plain.variables) == 2
    assert type(plain) is optimizers.Adam


# --- what must raise ------------------------------------------------------------


@since_keras(3, 5)
def test_an_update_that_keras_makes_another_way_raises(monkeypatch):
    """As if the hook had moved: nothing says that gradients are not summed twice."""
    optimizer = DistributedOptimizer(optimizers.SGD())
    moved = lambda self, grads, variables, rate: None  # noqa: E731
    monkeypatch.setattr(optimizers.SGD, "_backend_update_step", moved)
    with pytest.raises(ContextError, match="by another way"):
        a_step(optimizer, start())


@pytest.mark.parametrize(
    ("wrap", "around"),
    [
        (bare, "_backend_apply_gradients"),
        (optimizers.LossScaleOptimizer, "_common_apply"),
    ],
)
def test_an_update_around_the_sum_raises(wrap, around):
    optimizer, variables = DistributedOptimizer(wrap(optimizers.SGD())), start()
    optimizer.build(variables)
    gradients = [tf.ones(v.shape) for v in variables]
    with pytest.raises(ContextError, match="summed over replicas"):
        getattr(optimizer, around)(gradients, variables)


def test_one_device_is_refused_on_several(four):
    with four.scope():
        variables = start()
        optimizer = DistributedOptimizer(optimizers.SGD(), replicas=OneDevice())
        with pytest.raises(
            ContextError, match="4 replicas, whose variables would drift"
        ):
            four.run(a_step, (optimizer, variables))


def test_cross_replica_context_is_refused(four):
    with four.scope():
        optimizer, variables = DistributedOptimizer(optimizers.SGD()), start()
        with pytest.raises(ContextError, match="cross-replica context"):
            a_step(optimizer, variables)


LOSS = DistributedLoss("mse")


def accumulating(**options):
    return DistributedOptimizer("sgd", accumulation_steps=2, **options)


@pytest.mark.parametrize(
    ("call", "built_in", "message"),
    [
        (lambda: DistributedOptimizer("adm"), ValueError, "optimizer='adm'"),
        (lambda: DistributedOptimizer(3), TypeError, "optimizer=3"),
        (lambda: DistributedOptimizer(optimizers.SGD), TypeError, "type builtins.type"),
        (
            lambda: DistributedOptimizer(DistributedOptimizer("sgd")),
            TypeError,
            "DistributedOptimizer already",
        ),
        (
            lambda: DistributedOptimizer(optimizers.SGD(gradient_accumulation_steps=2)),
            ValueError,
            "gradient_accumulation_steps=2",
        ),
        (lambda: DistributedOptimizer("sgd", replicas=4), TypeError, "replicas=4"),
        (
            lambda: DistributedOptimizer("sgd", accumulation_steps=0, loss=LOSS),
            ValueError,
            "accumulation_steps=0",
        ),
        (
            lambda: DistributedOptimizer("sgd", accumulation_steps=2.0, loss=LOSS),
            TypeError,
            "accumulation_steps=2.0",
        ),
        (
            lambda: DistributedOptimizer("sgd", accumulation_steps=True, loss=LOSS),
            TypeError,
            "accumulation_steps=True",
        ),
        (accumulating, TypeError, "loss=None"),
        (lambda: accumulating(loss="mse"), TypeError, "loss='mse'"),
        (lambda: accumulating(loss=[LOSS, LOSS]), TypeError, "microbatches"),
        (
            lambda: accumulating(loss=DistributedLoss("mse", reduction="sum")),
            ValueError,
            "reduction='sum'",
        ),
    ],
)
def test_bad_input_says_what_to_do(call, built_in, message):
    with pytest.raises(distloss.DistlossError, match=message) as raised:
        call()
    assert isinstance(raised.value, built_in)


def accumulated_step(used):
    """A step that accumulates for LOSS, with the gradient of the losses `used`."""
    optimizer, variable = accumulating(loss=LOSS), keras.Variable([[1.0]])
    optimizer.build([variable])
    with tf.GradientTape() as tape:
        value = sum((loss([[0.0]], variable.value) for loss in used), variable.value[0])
    gradient = tape.gradient(value, variable.value)
    optimizer.apply([gradient], [variable])


@pytest.mark.parametrize(
    ("used", "message"),
    [
        ([], "no gradient of it was taken"),
        ([DistributedLoss("mae")], "of another DistributedLoss"),
        ([LOSS, DistributedLoss("mae")], "2 DistributedLosses .* microbatches"),
        ([LOSS, LOSS], "2 DistributedLosses .* microbatches"),
    ],
)
def test_gradients_of_unknown_weight_are_not_accumulated(used, message):
    with pytest.raises(ContextError, match=message):
        accumulated_step(used)
    accumulated_step([LOSS])  # nothing is left over from the failed step


def test_gradients_that_were_looked_at_elsewhere_do_not_count():
    """Eager ones of other losses, while this model trains in a graph; few are kept."""
    others = [DistributedLoss("mse"), DistributedLoss("mae")]
    for other in others * 3:
        with tf.GradientTape() as tape:
            y_pred = tf.constant(Y)
            tape.watch(y_pred)
            value = other(Y + 1.0, y_pred)
        assert tape.gradient(value, y_pred) is not None
    kept = denominators._thread.recorded
    assert [len(kept[other]) for other in others] == [2, 2]

    loss = DistributedLoss("mse")
    optimizer = DistributedOptimizer(adam(), accumulation_steps=3, loss=loss)
    fitted(compiled(loss, optimizer), 13, 5)
    assert int(optimizer.iterations.numpy()) == 1


@since_keras(3, 8)  # and this mean since 3.7; before, fit on replicas is refused
@pytest.mark.parametrize("kind", ["none", "mirrored"])
def test_a_window_of_no_weight_keeps_the_regularisers(kind):
    """As one batch of no weight does; beside others it counts nothing."""
    x = np.arange(24, dtype="float32").reshape(8, 3) / 10
    none, some = np.zeros(4, "float32"), np.array([0, 1, 2, 0.5], "float32")

    def build():
        layer = keras.layers.Dense(1, kernel_regularizer="l2")
        return keras.Sequential([keras.Input((3,)), layer])

    def weights_after(model, **options):
        data = {"x": x, "y": x[:, :1] ** 2, "shuffle": False, "verbose": 0}
        model.fit(**data, **options)
        return model.get_weights()

    keras.utils.set_random_seed(3)
    first = build().get_weights()
    for weights in (np.r_[none, none], np.r_[none, some]):
        plain = build()
        plain.set_weights(first)
        loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        plain.compile(keras.optimizers.SGD(0.5), loss)
        wanted = weights_after(plain, sample_weight=weights, batch_size=8)
        assert np.abs(wanted[0] - first[0]).max() > 1e-3
        with strategy_of(kind).scope():
            model = build()
            loss = distloss.DistributedLoss("mse", reduction="mean_with_sample_weight")
            rule = keras.optimizers.SGD(0.5)
            model.compile(
                DistributedOptimizer(rule, accumulation_steps=2, loss=loss), loss
            )
        model.set_weights(first)
        got = weights_after(model, sample_weight=weights, batch_size=4)
        for now, then in zip(got, wanted, strict=True):
            np.testing.assert_allclose(now, then, 1e-5, 1e-6)

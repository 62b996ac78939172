"""Optimizers in files, pickles and configs: what plain Keras keeps, is kept."""

import copy
import pickle
import subprocess
import sys

import cloudpickle
import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import since_keras
from keras import optimizers

import distloss
from distloss import DistributedLoss, DistributedOptimizer, OneDevice

RNG = np.random.default_rng(3)
X = RNG.normal(size=(16, 3)).astype("float32")
Y = (X[:, :2] * 2).astype("float32")
ROWS = {"batch_size": 4, "shuffle": False, "verbose": 0}


def bare(unchanged):
    return unchanged


def compiled(optimizer, loss="mse", dtype=None):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)]
    model = keras.Sequential(layers)
    if dtype:
        model.dtype_policy = keras.DTypePolicy(dtype)
    model.compile(optimizer, loss)
    return model


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def schedule():
    return optimizers.schedules.InverseTimeDecay(0.1, 2, 0.5)


def map_of_two():
    adam, sgd = optimizers.Adam(0.1), optimizers.SGD(0.1)
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(adam, {".*bias": sgd}))


RULES = {
    "Adam": lambda: optimizers.Adam(0.1),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1)),
}
if hasattr(optimizers, "MultiOptimizer"):
    RULES["MultiOptimizer"] = map_of_two


def rules_of(optimizer):
    if hasattr(optimizer, "optimizers"):
        return optimizer.optimizers
    return [getattr(optimizer, "inner_optimizer", optimizer)]


# Keras keeps the state of those within a MultiOptimizer twice, once by class names.
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
@pytest.mark.parametrize("rule", RULES)
def test_what_is_set_after_prepare_is_saved_as_plain_keras_saves_it(rule, tmp_path):
    configs = []
    for wrap in (bare, distloss.prepare):
        model = wrap(compiled(RULES[rule]()))
        for one in rules_of(model.optimizer):
            one.learning_rate = schedule()
            one.clipnorm = 0.25
        model.fit(X, Y, **ROWS)
        loaded = saved_and_loaded(model, tmp_path)
        assert type(loaded.optimizer) is type(RULES[rule]())
        for one in rules_of(loaded.optimizer):
            assert one.clipnorm == 0.25
            assert isinstance(one._learning_rate, type(schedule()))
            assert int(one.iterations.numpy()) == 4
        configs.append(loaded.get_compile_config())
        # and trains on as the one that was saved
        model.fit(X, Y, **ROWS)
        wrap(loaded).fit(X, Y, **ROWS)
        for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert without_names(configs[0]) == without_names(configs[1])


def without_names(config):
    """Keras numbers the names of optimizers."""
    if isinstance(config, dict):
        return {k: without_names(v) for k, v in config.items() if k != "name"}
    return config


@since_keras(3, 5)
def test_under_a_loss_scale_of_compile_too(tmp_path):
    given = optimizers.Adam(0.1)
    model = distloss.prepare(compiled(given, dtype="mixed_float16"))
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    model.optimizer.inner_optimizer.clipnorm = 0.25
    config = model.get_compile_config()["optimizer"]
    assert (config["class_name"], config["config"]["clipnorm"]) == ("Adam", 0.25)
    model.compile("sgd", "mse")
    assert model.get_compile_config()["optimizer"]["class_name"] == "SGD"


@pytest.mark.parametrize("scaled", [False, True])
def test_a_loaded_model_accumulates_on(scaled, tmp_path):
    """Each window one batch, as one that was not saved."""

    def made():
        loss = DistributedLoss("mse", reduction="sum_over_batch_size")
        rule = RULES["LossScaleOptimizer" if scaled else "Adam"]()
        return compiled(
            DistributedOptimizer(rule, accumulation_steps=2, loss=loss), loss
        )

    whole, model = compiled(RULES["Adam"]()), made()
    model.fit(X, Y, **ROWS)
    loaded = saved_and_loaded(model, tmp_path)
    assert loaded._compile_loss._user_loss is not loaded.optimizer._settings.loss
    for one in (loaded, distloss.prepare(saved_and_loaded(model, tmp_path))):
        one.fit(X, Y, **ROWS)
        one.fit(X[:5], Y[:5], **ROWS)  # 4 rows and 1
        whole = compiled(RULES["Adam"]())
        whole.fit(X, Y, **{**ROWS, "batch_size": 8}, epochs=2)
        whole.fit(X[:5], Y[:5], **{**ROWS, "batch_size": 5})
        for a, b in zip(one.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_another_loss_is_still_told_apart():
    first = DistributedLoss("mse")
    optimizer = DistributedOptimizer("sgd", accumulation_steps=2, loss=first)
    other = DistributedLoss("mse", reduction="mean_with_sample_weight")
    variable = keras.Variable([[1.0]])
    with tf.GradientTape() as tape:
        value = other([[0.0]], variable.value)
    with pytest.raises(distloss.DistlossError, match="another DistributedLoss"):
        optimizer.apply([tape.gradient(value, variable.value)], [variable])


# --- configs --------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_config_has_what_that_of_the_plain_one_has(rule):
    plain = RULES[rule]()
    optimizer = DistributedOptimizer(plain, replicas=OneDevice())
    assert plain.get_config().items() <= optimizer.get_config().items()
    again = type(optimizer).from_config(optimizer.get_config())
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert again._settings.replicas == OneDevice()


def test_a_config_may_be_changed_as_that_of_any_optimizer():
    config = DistributedOptimizer(optimizers.Adam(0.1, name="mine")).get_config()
    assert (config["name"], config["learning_rate"]) == ("mine", pytest.approx(0.1))
    config["learning_rate"], config["clipnorm"] = 0.5, 2.0
    changed = DistributedOptimizer.from_config(config)
    assert float(changed.learning_rate.numpy()) == 0.5
    assert changed.clipnorm == 2.0
    config["learning_rate"] = keras.saving.serialize_keras_object(schedule())
    changed = DistributedOptimizer.from_config(config)
    assert isinstance(changed._learning_rate, type(schedule()))


def test_configs_of_before_are_read():
    plain = keras.saving.serialize_keras_object(optimizers.Adam(0.125))
    settings = {"replicas": None, "accumulation_steps": 1, "loss": None}
    old = DistributedOptimizer.from_config({"optimizer": plain, **settings})
    assert float(old.learning_rate.numpy()) == 0.125
    inner = {"optimizer": plain, **settings}
    scaled = keras.saving.serialize_keras_object(RULES["LossScaleOptimizer"]())
    scaled["config"]["inner_optimizer"] = {
        "module": "distloss.optimizers",
        "class_name": "DistributedAdam",
        "config": inner,
        "registered_name": "distloss>DistributedOptimizer",
    }
    old = DistributedOptimizer.from_config({"optimizer": scaled, **settings})
    assert isinstance(old.inner_optimizer, DistributedOptimizer)


# --- pickles --------------------------------------------------------------------


def through(pickles):
    return lambda optimizer: pickles.loads(pickles.dumps(optimizer))


# Older releases of Keras pickle no optimizers.
pickles_optimizers = pytest.mark.skipif(
    not hasattr(optimizers.Optimizer, "_unpickle_model"), reason=keras.__version__
)
COPIES = {
    "pickle": through(pickle),
    "cloudpickle": through(cloudpickle),
    "deepcopy": copy.deepcopy,
}


@pickles_optimizers
@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # plain Keras too
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", COPIES)
def test_copies_are_as_those_of_the_plain_one(name, rule):
    found = []
    for wrap in (bare, DistributedOptimizer):
        optimizer, variable = wrap(RULES[rule]()), keras.Variable([1.0, 2.0])
        optimizer.build([variable])
        optimizer.apply([tf.ones(2)], [variable])
        for one in rules_of(optimizer):
            one.learning_rate = 0.25
        copied = COPIES[name](optimizer)
        assert type(copied) is type(optimizer)
        found.append([v.numpy().tolist() for v in copied.variables])
        target = keras.Variable([1.0, 2.0])
        copied.build([target])
        copied.apply([tf.constant([1.0, -2.0])], [target])
        found[-1].append(target.numpy().tolist())
    assert found[0] == found[1]


@pickles_optimizers
def test_a_pickle_is_read_where_nothing_was_imported(tmp_path):
    optimizer = DistributedOptimizer(optimizers.Adam(0.125), replicas=OneDevice())
    path = tmp_path / "optimizer"
    path.write_bytes(pickle.dumps(optimizer))
    code = f"import pickle; read = pickle.load(open({str(path)!r}, 'rb'))\n"
    code += "print(type(read).__name__, float(read.learning_rate))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "DistributedAdam 0.125\n", done.stderr


# --- MultiOptimizer with a function ---------------------------------------------


@since_keras(3, 15)
@pytest.mark.parametrize("builds_first", [False, True])
def test_a_function_may_choose_the_optimizers(builds_first, four):
    """Each is asked for once per variable; a new one each time is one each."""

    def updated(strategy, wrap):
        def chosen(variable):
            if "bias" in variable.path:
                return optimizers.Adam(0.1, clipnorm=0.5)
            return optimizers.SGD(0.1, clipvalue=0.3)

        with strategy.scope():
            variables = [keras.Variable([1.0], name=n) for n in ("kernel", "bias", "k")]
            plain = optimizers.MultiOptimizer(chosen)
            if builds_first:
                plain.build(variables)
            optimizer = wrap(plain)
            optimizer.build(variables)

        def replica_step():
            me = tf.distribute.get_replica_context().replica_id_in_sync_group
            alone = strategy.num_replicas_in_sync == 1
            local = tf.constant([10.0, -9.0, -1.5, 1.0])
            gradient = tf.reduce_sum(local) if alone else local[me]
            optimizer.apply([gradient[tf.newaxis]] * 3, variables)

        for _ in range(2):
            tf.function(lambda: strategy.run(replica_step))()
        return [variable.numpy() for variable in variables], optimizer

    wanted, _ = updated(tf.distribute.get_strategy(), bare)
    got, optimizer = updated(four, DistributedOptimizer)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    assert len(optimizer.optimizers) == 3
    assert all(isinstance(one, DistributedOptimizer) for one in optimizer.optimizers)

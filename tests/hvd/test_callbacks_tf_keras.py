"""Callbacks: ours with tf-keras, and what becomes of Horovod's with Keras 3.

Ours with tf-keras on several processes: test_horovod.py, which has launched them.
"""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from chosen import some
from conftest import strategy_of
from forked import Program
from test_horovod import PROGRAMS
from test_step_summary import SIZE, WEIGHTS, X, Y, events

from distloss import DistlossError, prepare
from distloss.callbacks import BroadcastState, StepSummary, state_of

DENOMINATORS = [len(X[start : start + SIZE]) for start in range(0, len(X), SIZE)]
layers = tf_keras.layers


def compiled(strategy, optimizer, loss="mse"):
    with strategy.scope():
        tf_keras.utils.set_random_seed(3)
        model = tf_keras.Sequential([layers.Dense(1, input_shape=[3])])
        model.compile(optimizer(), loss)
    return model


def sgd():
    return tf_keras.optimizers.SGD(0.05)


def legacy():
    return tf_keras.optimizers.legacy.SGD(0.05)


def scaled():
    return tf_keras.mixed_precision.LossScaleOptimizer(sgd(), initial_scale=2.0**10)


def norms_on_one_device():
    """Of each step's gradient, in NumPy."""
    kernel, bias = (
        w.astype("float64")
        for w in compiled(tf.distribute.get_strategy(), sgd).get_weights()
    )
    norms = []
    for start in range(0, len(X), SIZE):
        x, y, w = (a[start : start + SIZE].astype("float64") for a in (X, Y, WEIGHTS))
        error = w[:, None] * 2 * (x @ kernel + bias - y) / len(x)
        gradients = x.T @ error, error.sum(0)
        norms.append(np.sqrt(sum((g**2).sum() for g in gradients)))
        kernel, bias = kernel - 0.05 * gradients[0], bias - 0.05 * gradients[1]
    return norms


def fitted(model, x, callbacks):
    options = {"sample_weight": WEIGHTS, "shuffle": False, "verbose": 0}
    return model.fit(x, Y, SIZE, 1, callbacks=callbacks, **options)


@pytest.mark.parametrize(
    ("parts", "optimizer"),
    some([(1, sgd), (2, sgd), (2, legacy), (1, legacy), (2, scaled), (1, scaled)], 2),
)
def test_a_summary_is_of_the_whole_batch(optimizer, parts, tmp_path):
    model = compiled(strategy_of("mirrored"), optimizer)
    fitted(prepare(model, microbatches=parts), X, [StepSummary(tmp_path)])
    found = events(tmp_path)
    for tag, wanted in {
        "distloss/denominator/mse": DENOMINATORS,
        "distloss/gradient_norm": norms_on_one_device(),
        "distloss/skipped_steps": [0, 0, 0, 0],
    }.items():
        assert [step for step, _ in found[tag]] == [1, 2, 3, 4]
        np.testing.assert_allclose([x for _, x in found[tag]], wanted, rtol=1e-5)


def test_skipped_steps_are_counted(tmp_path):
    model = prepare(compiled(strategy_of("mirrored", 2), scaled))
    x = X.copy()
    x[SIZE + 7] = np.inf  # of the last replica, in the second batch
    fitted(model, x, [StepSummary(tmp_path)])
    assert events(tmp_path)["distloss/skipped_steps"][-1][1] == 1


def adding(package):
    class Adds(package.layers.Layer):
        def call(self, x):
            self.add_loss(tf.reduce_mean(x**2))
            return x

    model = package.Sequential([package.Input([3]), package.layers.Dense(2), Adds()])
    model.compile("sgd")
    return model


@pytest.mark.parametrize("package", [keras, tf_keras])
def test_a_model_that_only_adds_losses_has_a_summary(package, tmp_path):
    model = prepare(adding(package))
    model.fit(X, batch_size=SIZE, verbose=0, callbacks=[StepSummary(tmp_path)])
    found = events(tmp_path)
    assert (np.array(found["distloss/gradient_norm"])[:, 1] > 0).all()


def test_a_model_that_is_not_prepared_has_none(tmp_path):
    model = compiled(strategy_of("none"), sgd)
    with pytest.raises(DistlossError, match=r"Call distloss.prepare\(model\)"):
        fitted(model, X, [StepSummary(tmp_path)])


@pytest.mark.parametrize("optimizer", [sgd, legacy, scaled])
def test_the_state_of_a_model_is_its_weights_and_its_optimizers(optimizer):
    model = compiled(strategy_of("none"), optimizer)
    before = [variable.shape for variable in state_of(model)]
    fitted(model, X, [])
    assert [variable.shape for variable in state_of(model)] == before
    assert any("iter" in v.name for v in state_of(model))
    with pytest.raises(DistlossError, match="Expected a model with weights"):
        state_of(tf_keras.Sequential([layers.Dense(1)]))


def test_tf_keras_asks_a_callback_for_its_batches():
    """_keras.tf_keras.Callback answers."""
    callback = BroadcastState.__new__(BroadcastState)
    wanted = [
        n for n in dir(tf_keras.callbacks.Callback) if n.startswith("_implements")
    ]
    assert len(wanted) == 3
    assert [n for n in wanted if not callable(getattr(callback, n, None))] == []
    assert hasattr(tf_keras.Model, "_validate_and_get_metrics_result")


# -- under Horovod


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "found.json"
    ended = Program(PROGRAMS / "alone.py", path).ended()
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(path.read_text())


FAIL = {
    "BroadcastGlobalVariablesCallback": ("'ref'", "BroadcastState"),
    "MetricAverageCallback": ("'constant'", "GlobalMetrics"),
    "LearningRateScheduleCallback": ("'get_value'", "LearningRateScheduler"),
    "LearningRateWarmupCallback": ("'get_value'", "warmup_target"),
    "BestModelCheckpoint": ("'endswith'", "ModelCheckpoint"),
}


@pytest.mark.parametrize("name", FAIL)
def test_a_callback_of_horovods_that_fails_is_refused_by_name(alone, name):
    """The negative control: upstream fails on Keras 3."""
    upstream, instead = FAIL[name]
    assert alone[name]["plain"].startswith("AttributeError")
    assert upstream in alone[name]["plain"]
    found = alone[name]["prepared"]
    if name == "BestModelCheckpoint":  # it cannot be made
        assert found == alone[name]["plain"]
        return
    assert found.startswith("ArgumentError: Expected callbacks that work with Keras 3")
    assert f"hvd.callbacks.{name}" in found
    assert instead in found


def test_those_of_elastic_training_work_with_our_state(alone):
    for name in ("CommitState", "UpdateBatchState", "UpdateEpochState"):
        found = alone[f"{name}Callback"]
        assert found == {"plain": "trains", "prepared": "trains"}
    assert alone["KerasState"]["plain"].startswith("TypeError")

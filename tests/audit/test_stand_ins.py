"""What a script makes of TensorFlow is replaced while it runs, and only then."""

import inspect
import json
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute import distribute_lib

from distloss._audit.child.count import Counted, Told
from distloss._audit.child.first_step import FirstStep, Stop
from distloss._audit.child.patches import replaced, when_imported
from distloss._audit.child.places import Places
from distloss._audit.child.stand_ins import in_place_of_strategies
from distloss._audit.child.updates import Updates, instead_of_updates
from distloss._errors import AuditError

MADE = {
    "MirroredStrategy": lambda: tf.distribute.MirroredStrategy(["GPU:0", "GPU:1"]),
    "OneDeviceStrategy": lambda: tf.distribute.OneDeviceStrategy("GPU:0"),
    "MultiWorkerMirroredStrategy": tf.distribute.MultiWorkerMirroredStrategy,
    "experimental.MultiWorkerMirroredStrategy": (
        tf.distribute.experimental.MultiWorkerMirroredStrategy
    ),
    "TPUStrategy": lambda: tf.distribute.TPUStrategy(connected()),
    "experimental.TPUStrategy": (
        lambda: tf.distribute.experimental.TPUStrategy(connected())
    ),
    "experimental.CentralStorageStrategy": (
        tf.distribute.experimental.CentralStorageStrategy
    ),
}


def connected():
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="my-tpu")
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return resolver


@pytest.fixture
def two():
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.mark.parametrize("name", MADE)
def test_a_strategy_that_a_script_makes_is_that_of_the_audit(name, two):
    noted = []
    with in_place_of_strategies(two, noted.append):
        assert MADE[name]() is two
    assert noted == [name]
    assert two.num_replicas_in_sync == 2
    assert tf.distribute.OneDeviceStrategy("CPU:0") is not two
    assert tf.distribute.MirroredStrategy(["CPU:0"]).num_replicas_in_sync == 1


def test_a_script_finds_the_workers_that_it_looks_for(two, monkeypatch):
    with in_place_of_strategies(two, print):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect("my-tpu")
        assert tf.distribute.TPUStrategy(resolver) is two
        assert resolver.master() == ""
        assert resolver.cluster_spec().as_dict() == {"worker": ["localhost:8470"]}
        workers = tf.distribute.MultiWorkerMirroredStrategy().cluster_resolver
        assert (workers.task_type, workers.task_id) == (None, None)
        cluster = {"cluster": {"worker": ["a:1"]}, "task": {"type": "chief"}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        assert two.cluster_resolver.task_type == "chief"
    assert two.cluster_resolver is None


def test_workers_that_update_by_themselves_are_refused(two):
    with (
        in_place_of_strategies(two, print),
        pytest.raises(AuditError, match="Got ParameterServerStrategy"),
    ):
        tf.distribute.ParameterServerStrategy(None)


def test_a_script_for_the_other_engine_is_refused(two, monkeypatch):
    horovod = types.ModuleType("horovod.tensorflow")
    horovod.init = lambda: "initialized"
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", horovod)
    with (
        in_place_of_strategies(two, print),
        pytest.raises(AuditError, match=r"calls hvd.init\(\). Use --engine horovod"),
    ):
        horovod.init()
    with in_place_of_strategies(None, print):
        assert horovod.init() == "initialized"
        for make in MADE.values():
            with pytest.raises(AuditError, match="Use --engine strategy"):
                make()
    assert tf.distribute.MirroredStrategy(["CPU:0"]).num_replicas_in_sync == 1


def test_devices_stay_as_they_are(two):
    (cpu,) = tf.config.list_physical_devices("CPU")
    one = tf.config.LogicalDeviceConfiguration()
    before = tf.config.list_logical_devices()
    with in_place_of_strategies(two, print):
        tf.config.set_logical_device_configuration(cpu, [one] * 7)
        tf.config.set_visible_devices([], "CPU")
        tf.config.experimental.set_memory_growth(cpu, True)
        tf.config.threading.set_intra_op_parallelism_threads(99)
        tf.config.threading.set_inter_op_parallelism_threads(99)
    assert tf.config.list_logical_devices() == before
    with pytest.raises(RuntimeError):
        tf.config.set_logical_device_configuration(cpu, [one] * 7)


def test_a_replaced_attribute_is_inherited_again():
    class Parent:
        value = 1

    class Child(Parent):
        pass

    with replaced(Child, value=2):
        assert (Child.value, Parent.value) == (2, 1)
    assert "value" not in vars(Child)


def test_what_is_imported_later_is_told_of_then(tmp_path, monkeypatch):
    (tmp_path / "imported_later.py").write_text("value = 3")
    monkeypatch.syspath_prepend(tmp_path)
    seen, finders = [], list(sys.meta_path)
    for _ in range(2):  # before it is imported, and when it is there already
        with when_imported("imported_later", lambda it: seen.append(it.value)):
            import imported_later  # noqa: F401
    assert seen == [3, 3]
    assert sys.meta_path == finders


def test_all_who_wait_for_a_module_are_told(tmp_path, monkeypatch):
    (tmp_path / "awaited_by_two.py").write_text("value = 3")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    with (
        when_imported("awaited_by_two", lambda it: seen.append(it.value)),
        when_imported("another_module", seen.append),
        when_imported("awaited_by_two", lambda it: seen.append(-it.value)),
    ):
        import awaited_by_two  # noqa: F401
    assert seen == [3, -3]


def test_a_script_hears_what_it_is_told_and_tensorflow_the_truth(two):
    counted = Counted(4)
    with counted.watching():
        assert not counted.was_asked
        rows = two.experimental_distribute_dataset(tf.data.Dataset.range(6).batch(6))
        parts = two.experimental_local_results(next(iter(rows)))
        assert [len(part) for part in parts] == [3, 3]
        assert not counted.was_asked
        assert two.num_replicas_in_sync == 4
        assert isinstance(two.num_replicas_in_sync, Told)
        assert counted.was_asked
    assert type(two.num_replicas_in_sync) is int


def test_updates_are_noted_and_not_made(two):
    with two.scope():
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
        weight = keras.Variable(3.0)
        optimizer.build([weight])
    updates = Updates()

    def step():
        optimizer.apply_gradients([(tf.constant(1.0), weight)])

    with instead_of_updates(updates.note):
        two.run(step)
    assert updates.optimizers == [optimizer]
    assert updates.variables[0] is weight
    assert len(updates.variables) == 1
    assert float(weight.numpy()) == 3


@pytest.mark.filterwarnings("ignore:Even though the `tf.config")
def test_the_first_step_ends_a_script_again_and_again():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, step = np.ones([6, 2], "float32"), FirstStep(Places())
    fit, run = keras.Model.fit, distribute_lib.StrategyBase.run
    with step.watching():
        for number in (4, 5):
            with pytest.raises(Stop):
                model.fit(x[:number], x[:number, :1])
        with pytest.raises(Stop):
            model.train_on_batch(x, x[:, :1])
        with pytest.raises(Stop):
            tf.distribute.get_strategy().run(print)
        with pytest.raises(Stop):
            model.optimizer.apply([tf.zeros([2, 1])], model.trainable_variables[:1])
    assert step.taken()[0] is model
    assert step.taken()[1].rows[0].shape == (4, 2)
    assert (keras.Model.fit, distribute_lib.StrategyBase.run) == (fit, run)
    assert "callbacks" in inspect.signature(keras.Model.fit).parameters
    assert not tf.config.functions_run_eagerly()

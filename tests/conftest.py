"""Four logical CPUs before TensorFlow starts, and the strategies over them."""

import faulthandler
import functools
import gc
import os
import subprocess

import fast
import forked as forks
import keras
import pytest
import quick
import tensorflow as tf

from distloss._formula import denominators

REPLICAS = 4
COLLECTION = 300  # seconds
# They train as soon as they are imported, which looking for doctests would do.
collect_ignore_glob = ["*/programs/*"]
# Folders of tests in the order in which they run. Files whose tests take long come
# first, so that of several workers none has a long one alone at the end.
ORDER = ("hvd", "audit", "docs", "workers", "core", "lint")
LONG = ("test_tf_keras_own_steps", "test_prepared_shapes", "test_own_steps")


def pytest_configure():
    os.environ.pop("GITHUB_STEP_SUMMARY", None)  # what tests audit is no news there
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * REPLICAS)
    assert len(tf.config.list_logical_devices("CPU")) == REPLICAS
    if tf.__version__.startswith("2.23.0-dev"):
        # It knows more shapes, and ends the process where it knows that there are no
        # rows: examples/upstream/tensorflow_product_without_rows.py
        off = {"arithmetic_optimization": False}
        tf.config.optimizer.set_experimental_options(off)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What hangs while tests are looked for is ended, too, and shows where it was."""
    faulthandler.dump_traceback_later(COLLECTION, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_collection_modifyitems(config, items):
    if fast.FAST:
        chosen = fast.chosen(items)
        config.hook.pytest_deselected(items=[*set(items) - set(chosen)])
        items[:] = chosen
    items.sort(key=_place)


def _place(item):
    folder = item.path.parent.name
    return (*ORDER, folder).index(folder), item.path.stem not in LONG


def strategy_of(kind, count=REPLICAS):
    """One strategy object per kind and count, for the whole test run.

    Ring collectives of two MirroredStrategies over the same devices share their keys
    and collide, so only "collective" with all devices uses them.
    """
    return _made_once(kind, count)


@functools.cache
def _made_once(kind, count):
    devices = [f"CPU:{index}" for index in range(count)]
    if kind == "none":
        return tf.distribute.get_strategy()
    if kind == "one_device":
        return tf.distribute.OneDeviceStrategy("CPU:0")
    if kind == "central":
        return tf.distribute.experimental.CentralStorageStrategy(devices, "CPU:0")
    if kind == "collective":
        assert count == REPLICAS
        return tf.distribute.MirroredStrategy(devices)
    assert kind == "mirrored", kind
    to_one_device = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=to_one_device)


def few_of(kind):
    """Three replicas, or as many as it must be: each takes time to trace its step."""
    return strategy_of(kind, REPLICAS if kind == "collective" else 3)


@pytest.fixture
def four():
    """Four replicas whose sums are taken on one device."""
    return strategy_of("mirrored")


@pytest.fixture(autouse=True, scope="module")
def quick_tensorflow(request):
    """What trains in this process does so without what only takes time there."""
    is_asked = request.node.get_closest_marker("as_users_run")
    if is_asked or request.path.parent.name != "core":
        yield
        return
    with quick.graphs_as_traced(), quick.without_stacks(), quick.one_iterator():
        yield


@pytest.fixture(autouse=True)
def clean_keras():
    keras.utils.set_random_seed(7)
    yield
    keras.utils.clear_session()  # which looks for garbage
    # What is left stays: functions that TensorFlow keeps. To look at all of it again
    # after each of two thousand tests takes longer than the tests.
    gc.freeze()
    # of losses that outlive their test, and of which gradients were taken eagerly
    denominators._thread.recorded.clear()


@pytest.fixture(autouse=fast.FAST)
def no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", fast.refuse)


@pytest.fixture
def forked(monkeypatch):
    """Children of the audit are forks of one process that has loaded TensorFlow."""
    forks.fork_children(monkeypatch)

"""A pytest plugin that puts distloss behind Keras' own tests.

scripts/test_keras loads it. In the tests of losses every loss is called by way of a
DistributedLoss, in those of optimizers every optimizer is a DistributedOptimizer, and
everywhere each `compile` is followed by `prepare`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.testing import TestCase
from keras.src.trainers.trainer import Trainer

import distloss
from distloss import DistlossError, DistributedLoss, DistributedOptimizer

# What is refused by design: such a test runs without distloss, and is counted apart.
REFUSED = re.compile(
    r"with its own (train_step|compute_loss)\b"
    r"|Expected a compiled model, with a loss and an optimizer"
    r"|an optimizer that does not accumulate by itself"
    r"|Got a scalar"
    r"|a loss that leaves weights and reduction to keras"
)


class Behind:
    """What distloss did in the test that is running.

    Attributes:
      optimizers: whether it is to stand behind all that are made.
      uses: how many losses, optimizers and models it stood behind.
      refusals: what it said where it would not.
      is_busy: whether what is called or made is to stay plain.
    """

    def __init__(self) -> None:
        self.optimizers = False
        self.uses = 0
        self.refusals: list[str] = []
        self.is_busy = False

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Within it, what is called or made is plain."""
        was, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = was

    def put(self, distributed: Callable[[], Any], plain: Callable[[], Any]) -> Any:
        """What `distributed` returns; `plain` where that is refused by design."""
        try:
            with self.busy():
                made = distributed()
        except DistlossError as error:
            if not REFUSED.search(str(error)):
                raise
            self.refusals.append(str(error))
            with self.busy():
                return plain()
        self.uses += 1
        return made


behind = Behind()


def prepared_after(compile_plainly: Callable[..., None]) -> Callable[..., None]:
    """`Trainer.compile`, and then `prepare`."""

    def prepare(trainer: Any) -> None:
        # Many models of these tests are a layer with a Trainer, and no keras.Model.
        with mock.patch.object(keras, "Model", TensorFlowTrainer):
            distloss.prepare(trainer)

    @functools.wraps(compile_plainly)
    def compile(self: Any, *args: Any, **kwargs: Any) -> None:
        compile_plainly(self, *args, **kwargs)
        behind.put(lambda: prepare(self), lambda: None)

    return compile


def distributed_new(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """`Optimizer.__new__`, which gives a DistributedOptimizer."""
    plain = object.__new__(cls)
    is_ours = issubclass(cls, DistributedOptimizer)
    if is_ours or behind.is_busy or not behind.optimizers:
        return plain
    plain.__init__(*args, **kwargs)
    return behind.put(lambda: DistributedOptimizer(plain), lambda: plain)


def unless_made(init: Callable[..., None]) -> Callable[..., None]:
    """`DistributedOptimizer.__init__`, which Python calls again after `__new__`."""

    @functools.wraps(init)
    def once(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_settings" not in vars(self):
            init(self, *args, **kwargs)

    return once


def distributed_call(call_plainly: Callable[..., Any]) -> Callable[..., Any]:
    """`Loss.__call__` of a DistributedLoss, which must give what the loss gives."""

    def call(self: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        arguments = {"y_true": y_true, "y_pred": y_pred, "sample_weight": sample_weight}
        plain = functools.partial(call_plainly, self, **arguments)
        if behind.is_busy or isinstance(self, DistributedLoss):
            return plain()
        return behind.put(lambda: as_plain(call_plainly, self, arguments), plain)

    return call


def as_plain(call_plainly: Any, plain: Any, arguments: dict[str, Any]) -> Any:
    """What a DistributedLoss of `plain` returns; fails where `plain` alone differs."""
    loss, plain = DistributedLoss(plain), functools.partial(call_plainly, plain)
    result = loss(**arguments)
    y_pred = tensor(arguments["y_pred"])
    if not isinstance(y_pred, keras.KerasTensor) and y_pred.dtype.is_floating:
        assert_same_gradient(loss, plain, {**arguments, "y_pred": y_pred})
    return result


def tensor(y_pred: Any) -> Any:
    """The predictions, with their mask."""
    mask, y_pred = (
        getattr(y_pred, "_keras_mask", None),
        keras.ops.convert_to_tensor(y_pred),
    )
    if mask is not None:
        y_pred._keras_mask = mask
    return y_pred


def assert_same_gradient(loss: Any, plain: Any, arguments: dict[str, Any]) -> None:
    """Fails unless value and gradient by the predictions are the same."""
    y_pred = arguments["y_pred"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y_pred)
        found, expected = loss(**arguments), plain(**arguments)
    # what is shorter to Keras is float32 to us
    tolerance = 1e-5 if expected.dtype.size >= 4 else 2e-2
    for ours, theirs in (
        (found, expected),
        [tape.gradient(value, y_pred) for value in (found, expected)],
    ):
        ours, theirs = (keras.ops.cast(x, "float64").numpy() for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, tolerance, tolerance)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What scripts/test_keras says."""
    group = parser.getgroup("distloss behind the tests of Keras")
    group.addoption("--outcomes", help="the file for a line of JSON per test")
    group.addoption("--without", action="store_true", help="plain Keras instead")
    group.addoption("--replicas", type=int, default=1)


def pytest_configure(config: pytest.Config) -> None:
    """What the conftest.py of Keras does, which no package holds."""
    config.addinivalue_line("markers", "requires_trainable_backend: TensorFlow's is")
    config.addinivalue_line("markers", "multi_device: as it is")
    conftest: Any = types.ModuleType("conftest")
    conftest.skip_if_backend = lambda backend, reason: pytest.mark.skipif(
        keras.backend.backend() == backend, reason=reason
    )
    sys.modules["conftest"] = conftest
    # for good, since Python does not forget that a class had a __new__
    keras.optimizers.Optimizer.__new__ = distributed_new
    replicas = config.getoption("--replicas")
    if replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, devices)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Lets a file import JAX, which only its tests of JAX use."""
    stub = types.ModuleType("jax")
    is_file = isinstance(collector, pytest.Module)
    if is_file and sys.modules.setdefault("jax", stub) is stub:
        try:
            return (yield)
        finally:
            del sys.modules["jax"]
    return (yield)


@pytest.fixture(autouse=True)
def _distloss_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    behind.__init__()  # type: ignore[misc]
    option = request.config.getoption
    with contextlib.ExitStack() as stack:
        if option("--replicas") > 1:
            for patch in replica_patches():
                stack.enter_context(patch)
        if not option("--without"):
            for patch in patches(request.node.nodeid.partition("/")[0]):
                stack.enter_context(patch)
        yield


def replica_patches() -> Iterator[Any]:
    """What runs a test on replicas."""
    yield mock.patch.object(TestCase, "setUp", setup_on_replicas(TestCase.setUp))
    yield mock.patch.object(Trainer, "compile", compile_without_xla(Trainer.compile))


def compile_without_xla(compile: Callable[..., None]) -> Callable[..., None]:
    """`Trainer.compile` for several replicas on a CPU: TensorFlow has no XLA there."""

    @functools.wraps(compile)
    def on_replicas(self: Any, *args: Any, **kwargs: Any) -> None:
        compile(self, *args, **{**kwargs, "jit_compile": False})

    return on_replicas


def setup_on_replicas(setup: Callable[..., None]) -> Callable[..., None]:
    """`TestCase.setUp`, after which the test is in the scope of a strategy."""

    def then_enter_scope(self: Any) -> None:
        setup(self)  # clears what would forget the scope
        # TensorFlow was seen to hang where garbage of earlier tests, which are graphs,
        # was collected while replicas traced.
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
        # Ring collectives of several strategies in one process collide; these do not.
        sums = tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=sums)
        scope = contextlib.ExitStack()
        self.addCleanup(scope.close)
        scope.enter_context(strategy.scope())

    return then_enter_scope


def patches(part: str) -> Iterator[Any]:
    """What puts distloss behind the tests in that folder."""
    replace = mock.patch.object
    yield replace(Trainer, "compile", prepared_after(Trainer.compile))
    if part == "losses":
        loss = keras.losses.Loss
        yield replace(loss, "__call__", distributed_call(loss.__call__))
    if part == "optimizers":
        behind.optimizers = True
        init = unless_made(DistributedOptimizer.__init__)
        yield replace(DistributedOptimizer, "__init__", init)
        from_config = DistributedOptimizer.from_config

        def from_config_alone(cls: Any, *args: Any) -> Any:
            with behind.busy():
                return from_config(*args)

        yield replace(
            DistributedOptimizer, "from_config", classmethod(from_config_alone)
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Writes down what came of a test."""
    report = yield
    if report.when == "call" or not report.passed:
        line = {
            "test": item.nodeid,
            "outcome": report.outcome,
            "uses": behind.uses,
            "refused": behind.refusals,
            "message": str(call.excinfo.value)[:300] if call.excinfo else "",
        }
        with open(item.config.getoption("--outcomes"), "a") as file:
            print(json.dumps(line), file=file)
    return report

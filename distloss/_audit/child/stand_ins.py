"""The strategy of this process in the place of those that a script makes.

Whatever class and devices a script names, it gets the strategy of the audit, on virtual
replicas; what would look for other devices, or configure them, does nothing.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import (
    central_storage_strategy,
    collective_all_reduce_strategy,
    distribute_lib,
    mirrored_strategy,
    one_device_strategy,
    parameter_server_strategy_v2,
    tpu_strategy,
)
from tensorflow.python.distribute.cluster_resolver.tfconfig_cluster_resolver import (
    TFConfigClusterResolver,
)
from tensorflow.python.distribute.cluster_resolver.tpu import tpu_cluster_resolver
from tensorflow.python.eager import context

from distloss._audit.child.patches import HOROVODS, replaced, when_imported
from distloss._errors import AuditError

# The classes behind what tf.distribute offers, and what scripts call them.
_CLASSES: dict[str, Any] = {
    "MirroredStrategy": mirrored_strategy.MirroredStrategy,
    "OneDeviceStrategy": one_device_strategy.OneDeviceStrategy,
    "MultiWorkerMirroredStrategy": (
        collective_all_reduce_strategy.CollectiveAllReduceStrategy
    ),
    "experimental.MultiWorkerMirroredStrategy": (
        collective_all_reduce_strategy._CollectiveAllReduceStrategyExperimental
    ),
    "TPUStrategy": tpu_strategy.TPUStrategyV2,
    "experimental.TPUStrategy": tpu_strategy.TPUStrategy,
    "experimental.CentralStorageStrategy": (
        central_storage_strategy.CentralStorageStrategy
    ),
}
_PARAMETER_SERVER = parameter_server_strategy_v2.ParameterServerStrategyV2
_CONFIGURES = (
    "set_logical_device_configuration",
    "set_visible_devices",
    "set_memory_growth",
)


@contextlib.contextmanager
def in_place_of_strategies(
    strategy: Any, note: Callable[[str], None]
) -> Iterator[None]:
    """In here making a strategy gives `strategy`.

    Args:
      strategy: on the replicas of this process; None with Horovod, where scripts make
        none. A script that is for the other engine is refused.
      note: called with the name of each that was replaced.
    """
    with contextlib.ExitStack() as stack:
        if strategy is not None:
            for name, cls in _CLASSES.items():
                stack.enter_context(_giving(strategy, cls, name, note))
            stack.enter_context(_new(_PARAMETER_SERVER, _refused))
            for module in HOROVODS:
                refuse = functools.partial(_refuse_horovod, stack)
                stack.enter_context(when_imported(module, refuse))
        else:
            for cls in (*_CLASSES.values(), _PARAMETER_SERVER):
                stack.enter_context(_new(cls, _refused_with_horovod))
        stack.enter_context(_without_devices_of_its_own())
        yield


@contextlib.contextmanager
def _giving(
    strategy: Any, cls: Any, name: str, note: Callable[[str], None]
) -> Iterator[None]:
    """Making an instance of `cls` gives `strategy`, which is left as it is."""
    initialize = cls.__init__

    def new(made: Any, *_args: Any, **_kwargs: Any) -> Any:
        note(f"{name} of {made.__name__}" if made is not cls else name)
        return strategy

    def init(this: Any, *args: Any, **kwargs: Any) -> None:
        if this is not strategy:
            initialize(this, *args, **kwargs)

    with _new(cls, new), replaced(cls, __init__=init):
        yield


@contextlib.contextmanager
def _new(cls: Any, new: Callable[..., Any]) -> Iterator[None]:
    """In here instances of `cls` are made by `new`.

    A class that once had a `__new__` keeps one: without it, Python would refuse the
    arguments of `__init__` from then on.
    """
    cls.__new__ = new
    try:
        yield
    finally:
        cls.__new__ = _as_ever


def _as_ever(made: Any, *_args: Any, **_kwargs: Any) -> Any:
    return object.__new__(made)


def _refused(*_args: Any, **_kwargs: Any) -> Any:
    raise AuditError(
        "Expected a strategy whose replicas make one update together. Got "
        "ParameterServerStrategy, whose workers update by themselves."
    )


def _refused_with_horovod(made: Any, *_args: Any, **_kwargs: Any) -> Any:
    raise AuditError(
        "Expected a script without a strategy for --engine horovod, where each process "
        f"is a replica. Got one that makes a {made.__name__}. Use --engine strategy."
    )


def _refuse_horovod(stack: contextlib.ExitStack, horovod: Any) -> None:
    """A script that initializes Horovod is not for one process."""

    def init(*_args: Any, **_kwargs: Any) -> None:
        raise AuditError(
            "Expected a script whose replicas are those of a strategy. Got one that "
            "calls hvd.init(). Use --engine horovod."
        )

    stack.enter_context(replaced(horovod, init=init))


@contextlib.contextmanager
def _without_devices_of_its_own() -> Iterator[None]:
    """Devices are those of the audit: looking for TPUs finds them, silently."""
    with contextlib.ExitStack() as stack:
        for name in _CONFIGURES:
            stack.enter_context(replaced(context.Context, **{name: _does_nothing}))
        for name in ("intra_op_parallelism_threads", "inter_op_parallelism_threads"):
            read = vars(context.Context)[name].fget
            own = property(read, _does_nothing)
            stack.enter_context(replaced(context.Context, **{name: own}))
        stack.enter_context(_resolvers_of_here())
        stack.enter_context(
            replaced(
                tf.config,
                experimental_connect_to_cluster=_does_nothing,
                experimental_connect_to_host=_does_nothing,
            )
        )
        stack.enter_context(
            replaced(
                tf.tpu.experimental,
                initialize_tpu_system=_does_nothing,
                shutdown_tpu_system=_does_nothing,
            )
        )
        yield


@contextlib.contextmanager
def _resolvers_of_here() -> Iterator[None]:
    """Whatever TPUs a script asks for are those of this machine.

    A strategy says who its workers are as one of several does: by TF_CONFIG.
    """
    resolver = tpu_cluster_resolver.TPUClusterResolver
    initialize = resolver.__init__
    of_strategy = distribute_lib.StrategyBase.cluster_resolver.fget

    def init(this: Any, *_args: Any, **_kwargs: Any) -> None:
        initialize(this, "local")

    def found(strategy: Any) -> Any:
        return of_strategy(strategy) or TFConfigClusterResolver()

    with (
        replaced(
            resolver,
            __init__=init,
            connect=staticmethod(lambda *_args, **_kwargs: resolver()),
            cluster_spec=lambda _: tf.train.ClusterSpec({"worker": ["localhost:8470"]}),
        ),
        replaced(distribute_lib.StrategyBase, cluster_resolver=property(found)),
    ):
        yield


def _does_nothing(*_args: Any, **_kwargs: Any) -> None:
    """What the script asks for is there, or not needed here."""

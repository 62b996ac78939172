"""Where the replicas of a child process are."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from distloss import _virtual_cpus
from distloss._errors import AuditError
from distloss.replicas import Replicas, StrategyReplicas
from distloss.replicas.horovod import HorovodReplicas


class Devices:
    """Where the replicas of this process are: virtual CPUs, GPUs, or one rank."""

    def __init__(self, replicas: int, devices: str, rank: int | None = None) -> None:
        self.replicas, self.rank = replicas, rank
        self.strategy: Any = None
        if rank is not None:
            importlib.import_module("horovod.tensorflow").init()
            return
        kind = "GPU" if devices == "gpu" else "CPU"
        if kind == "CPU":
            _virtual_cpus.configure(replicas)
        found = [device.name for device in tf.config.list_logical_devices(kind)]
        if len(found) < replicas:
            raise AuditError(
                f"Expected {replicas} {kind} devices. Got {len(found)}: {found}."
            )
        # Ring collectives of several strategies in one process collide; these do not.
        self.strategy = tf.distribute.MirroredStrategy(
            found[:replicas], cross_device_ops=tf.distribute.ReductionToOneDevice()
        )

    def scope(self) -> Any:
        """Where models are built."""
        return (
            contextlib.nullcontext()
            if self.rank is not None
            else (self.strategy.scope())
        )

    def run(self, function: Callable[[Any], Any], bounds: Any) -> Any:
        """`function` on each replica of this process."""
        if self.rank is not None:
            return function(bounds)
        return self.strategy.run(function, args=(bounds,))

    def local_results(self, outputs: Any) -> Any:
        """What each replica of this process returned."""
        if self.rank is not None:
            return [outputs]
        return self.strategy.experimental_local_results(outputs)

    def check_collective(self) -> None:
        """Sums a one of each replica.

        Raises:
          AuditError: the sum is another number, with which nothing can be compared.
        """
        everyone: Replicas = StrategyReplicas()
        if self.rank is not None:
            everyone = HorovodReplicas()
        ones = self.run(lambda _: everyone.sum(tf.ones([]), "ones"), None)
        found = self.local_results(ones)
        if any(float(total) != self.replicas for total in found):
            raise AuditError(
                f"Expected the sum of a one of each of {self.replicas} replicas to be "
                f"{self.replicas}. Got {[float(total) for total in found]}. The "
                "devices or their collectives do not work."
            )

    def first_batches(self, dataset: Callable[[Any], Any]) -> list[Any]:
        """What each replica of this process gets first of a data set of all."""
        if self.rank is not None:
            context = tf.distribute.InputContext(
                self.replicas, self.rank, num_replicas_in_sync=self.replicas
            )
            return [next(iter(dataset(context)))]
        dealt = self.strategy.distribute_datasets_from_function(dataset)
        parts = [
            self.local_results(leaf) for leaf in tf.nest.flatten(next(iter(dealt)))
        ]
        return list(zip(*parts, strict=True))

    def bounds_of(self, bounds: Sequence[Sequence[int]]) -> Any:
        """First and last row of each replica, as `strategy.run` hands them out."""
        if self.rank is not None:
            return tf.constant(bounds[self.rank], tf.int32)
        pairs = [tf.constant(pair, tf.int32) for pair in bounds]
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: pairs[context.replica_id_in_sync_group]
        )

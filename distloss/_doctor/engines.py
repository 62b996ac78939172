"""The replicas of this machine: how many, where, and how to sum over some of them."""

from __future__ import annotations

import abc
import collections
import itertools
import os
from typing import Any

import tensorflow as tf

from distloss import _virtual_cpus
from distloss._errors import ArgumentError
from distloss.replicas import StrategyReplicas
from distloss.replicas.device_sums import sums_over_devices
from distloss.replicas.horovod import HorovodReplicas
from distloss.replicas.horovod_calls import start_with_pairs

Array = Any  # of NumPy


class Engine(abc.ABC):
    """Some replicas.

    Attributes:
      count: how many there are, in all processes.
      here: the numbers of those in this process.
      names: of the devices of those in this process.
      workers: processes of a strategy.
    """

    count: int
    here: tuple[int, ...]
    names: tuple[str, ...]
    workers = 1

    def pairs(self) -> list[tuple[int, int]]:
        """Each pair of replicas."""
        return list(itertools.combinations(range(self.count), 2))

    @abc.abstractmethod
    def placed(self, arrays: list[Array]) -> Any:
        """What the replicas of this process hold, on their devices."""

    @abc.abstractmethod
    def sum(self, placed: Any) -> list[Array]:
        """The sum over all replicas, as each of this process gets it."""

    @abc.abstractmethod
    def sum_of_pair(self, pair: tuple[int, int], arrays: list[Array]) -> list[Array]:
        """The sum over two replicas, as those of this process get it.

        Args:
          pair: their numbers, of which one at least is of this process.
          arrays: what those of this process give.
        """


class StrategyEngine(Engine):
    """Replicas of `tf.distribute`: devices of this machine, or of several workers.

    Args:
      virtual: how many virtual CPUs; None for the devices that are there.

    Raises:
      ArgumentError: virtual CPUs, and other workers.
    """

    def __init__(self, virtual: int | None) -> None:
        if virtual is not None:
            _virtual_cpus.configure(virtual)
        if os.environ.get("TF_CONFIG"):
            if virtual is not None:
                raise ArgumentError(
                    "Expected --replicas without TF_CONFIG, for it is one process "
                    "with virtual CPUs. Got both. Leave one of them out."
                )
            self._strategy: Any = tf.distribute.MultiWorkerMirroredStrategy()
            self.workers = _workers(self._strategy)
        else:
            gpus = [] if virtual else tf.config.list_logical_devices("GPU")
            found = gpus or tf.config.list_logical_devices("CPU")
            devices = [device.name for device in found]
            self._strategy = tf.distribute.MirroredStrategy(devices)
        self.count = self._strategy.num_replicas_in_sync
        self._devices = list(self._strategy.extended.worker_devices)
        self.here = self._numbers()
        self.names = tuple(map(_name_of, self._devices))
        self._sums: collections.Counter[int] = collections.Counter()
        self._function = tf.function(
            self._sum_on_all, autograph=False, reduce_retracing=True
        )

    def _numbers(self) -> tuple[int, ...]:
        numbers: list[int] = []

        def noted(context: Any) -> tf.Tensor:
            numbers.append(int(context.replica_id_in_sync_group))
            return tf.zeros(())

        self._strategy.experimental_distribute_values_from_function(noted)
        return tuple(numbers)

    def _sum_on_all(self, placed: Any) -> Any:
        def summed(value: tf.Tensor) -> tf.Tensor:
            return StrategyReplicas().sum_gradients([value])[0]

        return self._strategy.run(summed, (placed,))

    def placed(self, arrays: list[Array]) -> Any:
        """As the base class says."""
        given = iter(arrays)
        return self._strategy.experimental_distribute_values_from_function(
            lambda _context: tf.constant(next(given))
        )

    def sum(self, placed: Any) -> list[Array]:
        """As the base class says."""
        results = self._strategy.experimental_local_results(self._function(placed))
        return [result.numpy() for result in results]

    def sum_of_pair(self, pair: tuple[int, int], arrays: list[Array]) -> list[Array]:
        """As the base class says."""
        at = [self.here.index(number) for number in pair if number in self.here]
        group = pair[0] * self.count + pair[1]
        # Counted for each pair, since others do not take part.
        self._sums[group] += 1
        sums = sums_over_devices(
            [tf.constant(array) for array in arrays],
            [self._devices[i] for i in at],
            count=2,
            group=group,
            number=self._sums[group] * self.count**2 + group,
        )
        return [result.numpy() for result in sums]


class HorovodEngine(Engine):
    """The processes of Horovod, of which this is one."""

    def __init__(self) -> None:
        start_with_pairs()
        self._replicas = HorovodReplicas()
        self.count = self._replicas.count()
        self.here = (self._replicas.rank(),)
        gpus = tf.config.list_logical_devices("GPU")
        device = (gpus or tf.config.list_logical_devices("CPU"))[0]
        self.names = (_name_of(device.name),)

    def placed(self, arrays: list[Array]) -> Any:
        """As the base class says."""
        return tf.constant(arrays[0])

    def sum(self, placed: Any) -> list[Array]:
        """As the base class says."""
        return [self._replicas.sum_gradients([placed], "doctor")[0].numpy()]

    def sum_of_pair(self, pair: tuple[int, int], arrays: list[Array]) -> list[Array]:
        """As the base class says."""
        replicas = HorovodReplicas(process_set=pair)
        given = [tf.constant(arrays[0])]
        return [replicas.sum_gradients(given, f"doctor_{pair[0]}_{pair[1]}")[0].numpy()]


def _workers(strategy: Any) -> int:
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(spec.get(job, ())) for job in ("worker", "chief"))


def _name_of(device: str) -> str:
    """What a device is: "GPU:0 NVIDIA A100-SXM4-40GB"; of a CPU only its number."""
    kind, index = device.split(":")[-2:]
    if not kind.endswith("GPU"):
        return f"CPU:{index}"
    physical = tf.config.list_physical_devices("GPU")
    at = int(index) if int(index) < len(physical) else 0
    details = tf.config.experimental.get_device_details(physical[at])
    return f"GPU:{index} {details.get('device_name', '')}".strip()

"""What processes that share a batch tell each other: objects of Python.

All of them must ask in the same order, as for any collective.
"""

from __future__ import annotations

import abc
import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from distloss.replicas.horovod import HorovodReplicas
from distloss.replicas.horovod_calls import join
from distloss.replicas.horovod_calls import processes as horovod_processes
from distloss.replicas.strategy import current_strategy, has_several_workers

Array = Any  # of NumPy
# Of what is sent: of all integers, the ones that NCCL can gather as well.
_WORD = np.int32


class Processes(abc.ABC):
    """Those that take a step together.

    Attributes:
      count: how many there are.
      index: the place of this one among them.
    """

    count: int = 1
    index: int = 0

    @abc.abstractmethod
    def gathered(self, value: Any) -> list[Any]:
        """What each process passes here, in their order, in all of them."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.index == 0

    def told(self, value: Any) -> Any:
        """What the first process passes here, in all of them."""
        return self.gathered(value if self.is_first else None)[0]

    def all_make(self, make: Callable[[], Any]) -> Any:
        """What `make()` gives here, if it fails in none of them.

        Raises:
          FailedSomewhereError: in all, if it raises in one.
        """
        made, problem = None, ""
        try:
            made = make()
        except Exception as error:
            problem = said_of(error)
        for index, found in enumerate(self.gathered(problem)):
            if found:
                raise FailedSomewhereError(f"{found} (in process {index})")
        return made


class FailedSomewhereError(Exception):
    """What the error was, and in which process."""


def said_of(error: Exception) -> str:
    """What an error says, without the calls that AutoGraph lists before it."""
    if isinstance(error, FailedSomewhereError):
        return str(error)
    text = str(error)
    if text.startswith("in user code:"):
        return text.strip().splitlines()[-1].strip()
    return f"{type(error).__name__}: {text}"


class OneProcess(Processes):
    """This one alone."""

    def gathered(self, value: Any) -> list[Any]:
        """`value`, all that there is."""
        return [value]

    def all_make(self, make: Callable[[], Any]) -> Any:
        """What `make()` gives; it may raise anything."""
        return make()


ALONE = OneProcess()


class _Several(Processes):
    """Several, which gather arrays of integers."""

    def gathered(self, value: Any) -> list[Any]:
        """As the base class says. They trust each other: this is pickled."""
        sent = pickle.dumps(value)
        padded = sent + b"\0" * (-len(sent) % np.dtype(_WORD).itemsize)
        words = np.frombuffer(padded, _WORD)
        lengths = self._gathered(np.array([len(words)], _WORD))
        every = np.split(self._gathered(words), np.cumsum(lengths)[:-1])
        return [pickle.loads(one.tobytes()) for one in every]

    @abc.abstractmethod
    def _gathered(self, words: Array) -> Array:
        """The words of all processes, one after the other."""


class _OfHorovod(_Several):
    def __init__(self, replicas: HorovodReplicas) -> None:
        self._replicas = replicas
        self.count = replicas.count()
        self.index = int(replicas.index())

    def _gathered(self, words: Array) -> Array:
        return self._replicas.gathered(tf.constant(words), "objects").numpy()


class _OfWorkers(_Several):
    """Those of a strategy, of which each may have several replicas."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        here = len(strategy.extended.worker_devices)
        self.count = strategy.num_replicas_in_sync // here
        placed = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(context.replica_id_in_sync_group)
        )
        (first, *_) = strategy.experimental_local_results(placed)
        self.index = int(first) // here

    def _gathered(self, words: Array) -> Array:
        return _gathering(self._strategy)(tf.constant(words)).numpy()


@functools.cache
def _gathering(strategy: tf.distribute.Strategy) -> Any:
    """A function of the words of a process: those of all."""

    def gathered(words: tf.Tensor) -> tf.Tensor:
        rest = iter([words])  # the first replica speaks, and others have nothing

        def of_replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # The identity gives it a device, without which there is no destination.
            mine = tf.identity(next(rest, words[:0]))
            return context.all_gather(mine, axis=0)

        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    signature = [tf.TensorSpec([None], tf.int32)]
    return tf.function(gathered, autograph=False, input_signature=signature)


def processes_of(
    strategy: tf.distribute.Strategy, replicas: HorovodReplicas | None = None
) -> Processes:
    """Those that take the steps of a strategy, or of Horovod where that has several.

    Args:
      strategy: of this process.
      replicas: which of Horovod's processes; None for all.
    """
    if horovod_processes() > 1:
        found = replicas or HorovodReplicas()
        return _OfHorovod(found) if found.count() > 1 else ALONE
    return _OfWorkers(strategy) if has_several_workers(strategy) else ALONE


def strategy_of_steps() -> tf.distribute.Strategy | None:
    """The current strategy; TensorFlow's default one for a process of Horovod."""
    if horovod_processes() > 1:
        return tf.distribute.get_strategy()
    return current_strategy()


def meeting_after_failure(
    replicas: HorovodReplicas,
) -> Callable[[Any], list[Any]] | None:
    """What brings processes together of which one has left its step: its gathering.

    The others may be steps ahead, until a sum needs the part of this one. They get
    zeros, see by their check of that sum that its part is missing, leave their step and
    come here as well. None for some of Horovod's processes, for all of them must join.

    Args:
      replicas: whose sums are checked.
    """
    if replicas.process_set is not None:
        return None

    def gathered(value: Any) -> list[Any]:
        join()
        return _OfHorovod(replicas).gathered(value)

    return gathered

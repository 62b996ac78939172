"""Who shares the batch, and how to sum over them.

The only file that may touch `tf.distribute` collectives or Horovod.
"""

from __future__ import annotations

import abc
import contextlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from distloss._errors import ArgumentTypeError, BackendError, ContextError

if keras.config.backend() != "tensorflow":
    raise BackendError(
        "distloss needs Keras on the TensorFlow backend. Got "
        f"keras.config.backend()={keras.config.backend()!r}. Set the environment "
        "variable KERAS_BACKEND=tensorflow before Keras is imported."
    )


class Replicas(abc.ABC):
    """Who shares the batch: `OneDevice`, `StrategyReplicas`."""

    @abc.abstractmethod
    def count(self) -> int:
        """The number of replicas that share the batch."""

    @abc.abstractmethod
    def sum(self, local: tf.Tensor) -> tf.Tensor:
        """The sum of `local` over all replicas, the same on each of them.

        Args:
          local: local float, any static shape; behind `stop_gradient`, because
            the gradient of a sum over replicas is summed over replicas again.

        Returns:
          global float, the shape and dtype of `local`.

        Raises:
          ContextError: replicas cannot be summed from here.
        """

    @abc.abstractmethod
    def reported(self, value: tf.Tensor) -> tf.Tensor:
        """What each replica returns, so that Keras and users read `value`."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Replicas:
        """A new object with the arguments that `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable("distloss")
@dataclass(frozen=True)
class OneDevice(Replicas):
    """Nobody else shares the batch: local is global, and nothing is summed.

    Example:
      >>> from distloss import OneDevice, mean_share
      >>> float(mean_share([2.0, 4.0], replicas=OneDevice()))
      3.0
    """

    def count(self) -> int:
        """One."""
        return 1

    def sum(self, local: tf.Tensor) -> tf.Tensor:
        """`local` itself."""
        return local

    def reported(self, value: tf.Tensor) -> tf.Tensor:
        """`value` itself."""
        return value


@keras.saving.register_keras_serializable("distloss")
@dataclass(frozen=True)
class StrategyReplicas(Replicas):
    """The replicas in sync of the current `tf.distribute` strategy.

    The strategy is looked up at each call and not kept: outside any strategy
    there is one replica. Sums need replica context, that is the function given
    to `strategy.run`; with one replica they need nothing.

    Example:
      >>> from distloss import StrategyReplicas
      >>> StrategyReplicas().count()
      1
    """

    def count(self) -> int:
        """`num_replicas_in_sync` of the current strategy."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    def sum(self, local: tf.Tensor) -> tf.Tensor:
        """The sum over replicas, by one collective; none for one replica.

        Raises:
          ContextError: there are several replicas, and this is not replica
            context.
        """
        if self.count() == 1:
            return local
        context = tf.distribute.get_replica_context()
        if context is None:
            return self._sum_while_keras_builds(local)
        # A function argument has no device, and the collective then has "no
        # destination"; the identity gives it one.
        with _added_losses_kept():
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(local))

    def _sum_while_keras_builds(self, local: tf.Tensor) -> tf.Tensor:
        # Keras builds a model's loss in cross-replica context from symbolic
        # tensors, for their shapes only (`_symbolic_build`): any value will do.
        if in_symbolic_scope():
            return local
        raise ContextError(
            f"A sum over {self.count()} replicas must be called in replica context, "
            "inside the function given to strategy.run(...). It was called in "
            "cross-replica context, where each replica's part is out of reach. Move "
            "the call into the replica function, or, if this tensor is the whole "
            "batch, pass replicas=distloss.OneDevice()."
        )

    def reported(self, value: tf.Tensor) -> tf.Tensor:
        """`value / N`, since `strategy.reduce("SUM", ...)` and Keras give N times it.

        Keras' loss tracker multiplies what a loss returns by the number of
        replicas: https://github.com/keras-team/keras/pull/20609.
        """
        return value / tf.cast(self.count(), value.dtype)


@contextlib.contextmanager
def _added_losses_kept() -> Iterator[None]:
    """Keeps what layers added with `add_loss` on this replica through a collective.

    Replicas run as threads that take turns, and a collective in the middle of a step
    passes the turn on. A layer has one list of added losses for all of them, cleared
    when the next replica calls the model: when this replica goes on, its model.losses
    would be those of another.
    https://github.com/keras-team/keras/blob/v3.12.0/keras/src/layers/layer.py
    """
    kept = [(layer, layer._losses[:]) for layer in _layers_in_use()]
    yield
    for layer, losses in kept:
        layer._losses[:] = losses


def _layers_in_use() -> Iterator[keras.Layer]:
    """Each layer that a function on this thread's stack, or its `self`, holds."""
    seen: set[int] = set()
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        named = (frame.f_globals.get(name) for name in frame.f_code.co_names)
        owned = getattr(frame.f_locals.get("self"), "__dict__", {})
        for value in [*frame.f_locals.values(), *named, *owned.values()]:
            if isinstance(value, keras.Layer) and id(value) not in seen:
                layers = [x for x in value._flatten_layers() if id(x) not in seen]
                seen.update(map(id, layers))
                yield from layers
        frame = frame.f_back


def replicas_or_current_strategy(replicas: Replicas | None) -> Replicas:
    """`replicas`, or the current strategy's when it is None.

    Raises:
      ArgumentTypeError: `replicas` is something else.
    """
    if replicas is None:
        return StrategyReplicas()
    if not isinstance(replicas, Replicas):
        raise ArgumentTypeError(
            "Expected replicas= to say who shares the batch: distloss.OneDevice(), "
            "distloss.StrategyReplicas() or None for the current strategy. Got "
            f"replicas={replicas!r} of type {type(replicas).__name__}. Pass an "
            "instance of one of these; a strategy is found by itself."
        )
    return replicas

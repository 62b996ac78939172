"""Who shares the batch, and how to sum over them: what every way must offer."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from distloss._types import Gradient


class Replicas(abc.ABC):
    """Who shares the batch: `OneDevice`, `StrategyReplicas`, `HorovodReplicas`.

    Attributes:
      keras_sums_metrics: whether Keras adds up the variables of its metrics over these
        replicas when it reads them.
    """

    keras_sums_metrics = True

    @abc.abstractmethod
    def count(self) -> int:
        """The number of replicas that share the batch, now."""

    def count_as(self, dtype: tf.DType) -> tf.Tensor:
        """The number of replicas when it is run, a float scalar of `dtype`."""
        return tf.cast(self.count(), dtype)

    @abc.abstractmethod
    def sum(self, local: tf.Tensor, name: str = "sum") -> tf.Tensor:
        """The sum of `local` over all replicas, the same on each of them.

        Args:
          local: local float, any static shape; behind `stop_gradient`, because
            the gradient of a sum over replicas is summed over replicas again.
          name: what is summed, the same word on all replicas.

        Returns:
          global float, the shape and dtype of `local`.

        Raises:
          ContextError: replicas cannot be summed from here.
        """

    @property
    def sums_are_exact(self) -> bool:
        """Whether gradients are summed in their own dtype, and so are counts."""
        return True

    def index(self) -> tf.Tensor:
        """The place of this replica among them when it is run, an int32 scalar."""
        return tf.zeros((), tf.int32)

    @property
    def is_in_one_process(self) -> bool:
        """Whether all replicas are in this process.

        Where there are several, `together` must see what all of them have.
        """
        return self.count() == 1

    def described(self, index: int) -> str:
        """What replica `index` is called, for a message."""
        return f"replica {index}"

    def sent_as(self, dtype: tf.DType) -> tf.DType:
        """In which dtype gradients of `dtype` are sent and added up."""
        return dtype

    def as_sum(self, received: tf.Tensor) -> tf.Tensor:
        """What `sum_gradients` gave for a tensor, as the sum that it stands for."""
        return received

    def together(
        self,
        function: Callable[[list[list[tf.Tensor]]], tf.Tensor],
        local: Sequence[tf.Tensor],
    ) -> tf.Tensor:
        """`function` of the lists `local` of all replicas in this process.

        Called once for all of them; each gets what it returned. Costs no collective.
        """
        return function([list(local)])

    @abc.abstractmethod
    def loss_to_report(self, value: tf.Tensor) -> tf.Tensor:
        """What each replica returns, so that Keras and users read `value`."""

    def share_to_report(self, share: tf.Tensor) -> tf.Tensor:
        """What each replica returns instead of `loss_to_report`, where nobody sums."""
        return share

    def loss_to_differentiate(self, share: tf.Tensor) -> tf.Tensor:
        """`share` as gradients are taken of it, before they are reduced."""
        return share

    @abc.abstractmethod
    def sum_gradients(
        self, local: Sequence[Gradient], name: str = "gradients"
    ) -> list[Gradient]:
        """The sums of gradients over all replicas, in buckets of one dtype.

        Args:
          local: local float tensors, or `tf.IndexedSlices`, which stay sparse: the
            slices of all replicas one after the other.
          name: whose gradients, the same word on all replicas.

        Returns:
          global, one sum for each of `local`, of its shape and dtype.

        Raises:
          ContextError: replicas cannot be summed from here.
        """

    def read_together(self, read: Callable[[], Any]) -> Any:
        """What `read()` makes of variables that are summed over replicas when read.

        That of this replica alone, where summing them would cost a collective.
        """
        return read()

    def call_if(
        self,
        condition: tf.Tensor,
        function: Callable[..., None],
        arguments: Sequence[Any] = (),
    ) -> None:
        """Calls `function` on all replicas if `condition` holds on all of them.

        Sums over replicas are allowed in `function`. It must not use tensors that
        were made outside it, but for its `arguments`; variables it may.
        """
        call = functools.partial(function, *arguments)
        tf.cond(condition, without_result(call), tf.no_op)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Replicas:
        """A new object with the arguments that `get_config` returned."""
        return cls(**config)


def without_result(function: Callable[[], Any]) -> Callable[[], Any]:
    """`function` as a branch of a `tf.cond` whose other branch is `tf.no_op`."""

    def branch() -> Any:
        function()
        return tf.no_op()

    return branch

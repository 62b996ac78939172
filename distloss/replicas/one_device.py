"""The one device that is its own replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from distloss._errors import ContextError
from distloss._types import Gradient
from distloss.replicas.base import Replicas
from distloss.replicas.strategy import StrategyReplicas


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

    def sum(self, local: tf.Tensor, name: str = "sum") -> tf.Tensor:
        """`local` itself."""
        return local

    def loss_to_report(self, value: tf.Tensor) -> tf.Tensor:
        """`value` itself."""
        return value

    def sum_gradients(
        self, local: Sequence[Gradient], name: str = "gradients"
    ) -> list[Gradient]:
        """`local` itself.

        Raises:
          ContextError: under a strategy with several replicas: each would make an
            update of its own, and their variables would drift apart.
        """
        replica_count = StrategyReplicas().count()
        if replica_count > 1:
            raise ContextError(
                "Expected one replica, as replicas=distloss.OneDevice() says. Got a "
                f"strategy of {replica_count} replicas, whose variables would drift "
                "apart under gradients that nobody sums. Leave replicas= out."
            )
        return list(local)

"""The callback that starts all processes from the state of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._errors import ContextError
from distloss._keras.tf_keras import Callback
from distloss.callbacks.state import state_of
from distloss.replicas.horovod import HorovodReplicas


class BroadcastState(Callback):
    """Starts all processes from the weights and the optimizer of one.

    When training begins, each weight and each variable of the optimizer (slots,
    iterations, loss scale) is assigned its value on process `root_rank`: also where
    only that process has loaded a checkpoint. Put it after callbacks that load one.
    Seeds of random layers stay each process's own.

    Args:
      replicas: the processes; None means all of Horovod's.
      root_rank: rank of the process to copy; None means the first of the processes.

    Raises:
      ContextError: when training begins: the model has no weights yet, or the
        processes made different models.

    Example:
      >>> from distloss.callbacks import BroadcastState
      >>> callbacks = [BroadcastState()]  # for model.fit

    Reference: `hvd.callbacks.BroadcastGlobalVariablesCallback`, which fails on Keras 3.
    """

    def __init__(
        self, replicas: HorovodReplicas | None = None, *, root_rank: int | None = None
    ) -> None:
        super().__init__()
        self.replicas = replicas or HorovodReplicas()
        self.root_rank = root_rank

    def on_train_begin(self, logs: Any = None) -> None:
        """Broadcasts."""
        broadcast_state(self.model, self.replicas, root_rank=self.root_rank)


def broadcast_state(
    model: Any, replicas: HorovodReplicas, *, root_rank: int | None = None
) -> None:
    """Assigns weights and optimizer variables of process `root_rank` to all.

    Raises:
      ContextError: the model has no weights yet, or the processes made different
        models.
    """
    variables = state_of(model)
    _check_same_shapes(variables, replicas)
    root = replicas.first_rank() if root_rank is None else root_rank
    replicas.broadcast(variables, root_rank=root, name="state")


def _check_same_shapes(variables: Sequence[Any], replicas: HorovodReplicas) -> None:
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    mine = tf.constant([[len(sizes), sum(sizes)]], tf.int64)
    all_sizes = replicas.gathered(mine, "state_sizes").numpy()
    if (all_sizes != all_sizes[0]).any():
        raise ContextError(
            "Expected the same model and optimizer on all processes. Got (variables, "
            f"elements) {[tuple(map(int, pair)) for pair in all_sizes]} on them, in "
            "the order of their ranks. Build the model by the same code everywhere."
        )

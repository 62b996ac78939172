"""The callback that finds replicas whose weights have drifted apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._errors import ArgumentError, DriftError
from distloss._keras.optimizer_state import rule_of
from distloss._keras.tf_keras import Callback
from distloss._keras.update_rules import parts_of
from distloss.callbacks.arguments import checked_every
from distloss.replicas import StrategyReplicas
from distloss.replicas.horovod import HorovodReplicas
from distloss.replicas.horovod_calls import has_wrapped, processes


class DriftGuard(Callback):
    """Stops training when the replicas no longer hold the same weights.

    Every `every` batches and when training ends, each replica computes two checksums of
    each trainable weight, and all are compared: the copies on the devices of a
    strategy, of all of its workers, or those of Horovod's processes. Between processes
    that takes one gather of a few numbers. They differ after weights were not
    broadcast, gradients not reduced, or an update was skipped on some replicas only.
    `BatchNormalization`'s moving statistics differ by design, and are not compared.

    Args:
      replicas: who holds copies. None means all of Horovod's processes where it runs
        several, else the replicas of the model's strategy.
      every: batches between comparisons, a positive int.
      tolerance: how much checksums may differ, relative to the largest.

    Raises:
      DriftError: when they differ, in all processes: the first variable that differs.
      ArgumentError: `every` is not an int of at least 1, or `tolerance` is negative.

    Example:
      >>> from distloss.callbacks import DriftGuard
      >>> callbacks = [DriftGuard(every=100)]  # for model.fit

    Reference: examples/guides/horovod.md.
    """

    def __init__(
        self,
        replicas: HorovodReplicas | StrategyReplicas | None = None,
        *,
        every: int = 100,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        if not tolerance >= 0:
            raise ArgumentError(
                f"Expected tolerance= to be 0 or more. Got tolerance={tolerance!r}."
            )
        self.replicas = replicas
        self.every = checked_every(every)
        self.tolerance = tolerance
        self._batches = 0
        self._checksums = tf.function(checksums, autograph=False)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Compares, every `every` batches."""
        self._batches += 1
        if self._batches % self.every == 0:
            self.compare()

    def on_train_end(self, logs: Any = None) -> None:
        """Compares."""
        self.compare()

    def compare(self) -> None:
        """Compares the weights of all replicas; all processes must call it together.

        Raises:
          DriftError: they differ.
        """
        variables = self.model.trainable_weights
        copies = zip(*map(parts_of, variables), strict=True)
        mine = [
            self._checksums([tf.convert_to_tensor(v) for v in copy]) for copy in copies
        ]
        everybody = self._of_all(mine).numpy() if mine else np.zeros((0, 0, 2))
        at = first_difference(everybody, self.tolerance) if len(everybody) else None
        if at is not None:
            sums = everybody[:, at, 0]
            raise DriftError(_drift_message(self.model, variables[at], sums))

    def _of_all(self, mine: Sequence[tf.Tensor]) -> tf.Tensor:
        """The checksums of all replicas, given those of this process."""
        replicas = self.replicas
        if replicas is None:
            replicas = HorovodReplicas() if processes() > 1 else StrategyReplicas()
        if isinstance(replicas, HorovodReplicas):
            return replicas.gathered(tf.stack(mine), "checksums")
        with self.model.distribute_strategy.scope():
            return replicas.gathered(mine)


def checksums(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Two numbers per tensor that tell different tensors apart: float64 `[tensors, 2]`.

    The sum, and a sum with weights that differ from element to element, so that what
    one element gained and another lost shows.
    """
    rows = []
    for value in values:
        flat = tf.cast(tf.reshape(value, [-1]), tf.float64)
        wave = tf.cos(tf.range(tf.cast(tf.size(flat), tf.float64)))
        rows.append(tf.stack([tf.reduce_sum(flat), tf.reduce_sum(flat * wave)]))
    return tf.stack(rows) if rows else tf.zeros((0, 2), tf.float64)


def first_difference(everybody: np.ndarray[Any, Any], tolerance: float) -> int | None:
    """The first tensor whose checksums, `[replicas, tensors, 2]`, differ."""
    spread = np.ptp(everybody, axis=0)
    scale = np.abs(everybody).max(axis=0)
    same = (spread <= tolerance * scale) | np.isnan(everybody).all(axis=0)
    wrong = np.flatnonzero(~same.all(axis=-1))
    return int(wrong[0]) if len(wrong) else None


def _drift_message(
    model: keras.Model, variable: Any, sums: np.ndarray[Any, Any]
) -> str:
    found = ", ".join(f"{value:.9g}" for value in sums)
    name = getattr(variable, "path", variable.name)  # of tf-keras
    cause = (
        "Copies on the replicas of a strategy drift apart where each updates with "
        "gradients that nobody has summed, or assigns what it computed: use "
        "distloss.DistributedOptimizer or distloss.prepare(model). Under Horovod, "
        "broadcast the initial weights with distloss.callbacks.BroadcastState, and "
        "reduce gradients with distloss.DistributedOptimizer(optimizer, "
        "replicas=distloss.HorovodReplicas())."
    )
    if has_wrapped(model.optimizer):
        kind = type(rule_of(model.optimizer)).__name__
        cause = (
            f"The optimizer is hvd.DistributedOptimizer ({kind}), which never "
            "reduces with Keras 3: https://github.com/horovod/horovod/issues/4290. Use "
            "distloss.DistributedOptimizer instead."
        )
    return (
        "Expected the same weights on all replicas. Got different ones, first in "
        f"variable {name!r}: the sums of its elements are {found}, in the "
        f"order of the replicas, or ranks. {cause}"
    )

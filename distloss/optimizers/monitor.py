"""What the last step was like, kept in variables for a callback to read."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distloss._keras.versions import per_replica_variable
from distloss._types import Gradient


class Monitor:
    """What an optimizer notes. Not a `tf.Module`, so that checkpoints leave it out.

    Attributes:
      gradient_norm: float scalar, of the gradients of all variables, summed over
        replicas and unscaled, before they are clipped.
      skipped: how many updates had gradients that were not finite.
    """

    def __init__(self) -> None:
        self.gradient_norm = per_replica_variable((), "float32", "only_first_replica")
        self.skipped = per_replica_variable((), "float32", "only_first_replica")

    def note(self, sums: Sequence[Gradient], scale: tf.Tensor | float) -> None:
        """Notes one update of gradients that are `scale` times too large."""
        parts = [tf.cast(tf.linalg.global_norm([g]), tf.float32) for g in sums]
        norm = tf.linalg.norm(tf.stack(parts)) / tf.cast(scale, tf.float32)
        self.gradient_norm.assign(norm)
        self.skipped.assign_add(1.0 - tf.cast(tf.math.is_finite(norm), tf.float32))

"""TensorFlow's own shares, `tf.nn.compute_average_loss` and its like, weighed by rows.

They give a replica's part of a mean, to be added up over replicas. In a step that is
weighed by rows each is taken back to what its weight, n_r / R, makes that part:
https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/ops/nn_impl.py
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distloss._formula.reduce import without_autograph
from distloss._formula.row_weights import row_weighted_context
from distloss._keras.model_hooks import Hook
from distloss.replicas import StrategyReplicas


def watch_shares() -> None:
    """Puts ours in the place of the two; elsewhere they do what they did."""
    for name, ours in (
        ("compute_average_loss", _average_loss),
        ("scale_regularization_loss", _regularization_loss),
    ):
        of_tensorflow = getattr(tf.nn, name)
        if not isinstance(of_tensorflow, Hook):
            setattr(tf.nn, name, Hook(ours, of_tensorflow))


@without_autograph
def _average_loss(
    of_tensorflow: Any,
    per_example_loss: Any,
    sample_weight: Any = None,
    global_batch_size: Any = None,
) -> Any:
    part = of_tensorflow(per_example_loss, sample_weight, global_batch_size)
    step = row_weighted_context()
    if step is None:
        return part
    if global_batch_size is None:  # TensorFlow took N times the rows of one replica
        return _times_replicas(part)
    return step.mean_of(part, None, "average_loss")


@without_autograph
def _regularization_loss(of_tensorflow: Any, regularization_loss: Any) -> Any:
    part = of_tensorflow(regularization_loss)
    return part if row_weighted_context() is None else _times_replicas(part)


def _times_replicas(part: tf.Tensor) -> tf.Tensor:
    """What TensorFlow had before it divided by the replicas of its strategy."""
    return part * StrategyReplicas().count_as(part.dtype)

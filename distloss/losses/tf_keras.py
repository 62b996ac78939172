"""The loss of tf-keras (Keras 2) that divides by the whole batch."""

from __future__ import annotations

import importlib
from typing import Any

import tensorflow as tf

from distloss._formula import empty
from distloss._formula.step_context import current_step
from distloss._keras.tf_keras import class_of
from distloss._types import LossLike, TensorLike
from distloss.losses.arguments import (
    checked_reduction,
    found_loss,
    name_of,
    refuse_own_call,
)
from distloss.losses.global_loss import GlobalLoss, refuse_distributed
from distloss.replicas import Replicas


class _Loss(GlobalLoss):
    """What becomes a `tf_keras.losses.Loss`.

    Its `reduction` is "sum" to tf-keras, by which this divides no gradient by N, and
    multiplies what it reports by N: what a `GlobalLoss` returns is made for both.
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/engine/compile_utils.py
    """

    def __init__(
        self,
        loss: LossLike,
        *,
        reduction: str | None = None,
        replicas: Replicas | None = None,
        global_batch_size: int | tf.Tensor | None = None,
        name: str | None = None,
    ) -> None:
        element_loss = _element_loss(loss)
        if (reduction or element_loss.reduction) == "auto":
            reduction = "sum_over_batch_size"
        reduction = checked_reduction(reduction, element_loss)
        keras_loss: Any = super()
        keras_loss.__init__(
            reduction="none" if reduction == "none" else "sum",
            name=name or element_loss.name,
        )
        self._element_loss = element_loss
        # tf-keras saves losses, functions and names, but neither configs nor classes
        self.loss = element_loss if isinstance(loss, dict | type) else loss
        self.global_reduction = reduction
        self._share_batch(replicas, global_batch_size)

    def __call__(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> tf.Tensor:
        """The loss of this replica's rows."""
        with tf.name_scope("distributed_loss"):
            values = self.call(y_true, y_pred)
            step = current_step()
            if step is not None:  # which gives a replica without rows one of zeros
                found = (values, y_pred, sample_weight)
                values, y_pred, sample_weight = empty.without_it(found, step.rows)
            return self._of_rows(values, y_pred, sample_weight)

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """The loss of each element: local float, shape `[rows, ...]`."""
        autograph, call = tf.__internal__.autograph, self._element_loss.call
        if not tf.executing_eagerly():  # as tf-keras does it
            call = autograph.tf_convert(call, autograph.control_status_ctx())
        return self._checked_values(call, y_true, y_pred)


def distributed_loss(loss: LossLike, **arguments: Any) -> Any:
    """A `tf_keras.losses.Loss` around `loss`, with arguments of `DistributedLoss`."""
    return loss_class()(loss, **arguments)


def loss_class() -> Any:
    """The class of these losses."""
    made = class_of(_Loss, "losses.Loss", "DistributedLoss")
    made.saving = importlib.import_module("tf_keras").saving
    return made


def _element_loss(loss: LossLike) -> Any:
    """The loss of tf-keras whose `call` gives element losses."""
    refuse_distributed(loss)
    tf_keras = importlib.import_module("tf_keras")
    found = found_loss(loss, tf_keras.losses)
    if not isinstance(found, tf_keras.losses.Loss):
        wrapper = tf_keras.__internal__.losses.LossFunctionWrapper
        return wrapper(found, name=name_of(loss, found))
    refuse_own_call(found, tf_keras.losses.Loss)
    return found

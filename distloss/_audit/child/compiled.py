"""Compiled models of Keras 3 and of tf-keras, as a child of the audit runs them."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._audit.child.devices import Devices
from distloss._errors import AuditError
from distloss._keras import tf_keras
from distloss._keras.compiled_model import is_compiled, loss_container
from distloss._keras.private_names.of_audit import (
    FLAT_LOSSES_OF_OUTPUTS,
    OUTPUT_NAMES,
    REDUCE_OF_TF_KERAS,
    REDUCE_PER_REPLICA,
)
from distloss._keras.private_names.of_models import (
    LOSS_TRACKER,
    MAYBE_SYMBOLIC_BUILD,
    METRICS_RESULT_OR_LOGS,
    SYMBOLIC_BUILD,
)
from distloss._keras.private_names.of_others import BUILT_LOSSES, METRICS_RESULT
from distloss._keras.tf_keras_own_steps import exchange_losses


class Compiled:
    """A compiled model of Keras 3: what `fit` does around its `train_step`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        if not is_compiled(model):
            raise AuditError(
                "Expected build() to return a compiled Keras model. Got model "
                f"{model.name!r}, which is not. Call model.compile(optimizer, "
                "loss) in build()."
            )

    def build(self, devices: Devices, batch: Any) -> list[tf.Variable]:
        """Makes variables, and a switch for each loss; `batch` holds tensors."""
        name = SYMBOLIC_BUILD if devices.strategy is None else MAYBE_SYMBOLIC_BUILD
        if name.is_due:
            name.of(self.model)(data_batch=batch)
        losses = self._losses()
        switches = [tf.Variable(1.0) for _ in losses]
        if losses:
            switched = [
                one._replace(loss=functools.partial(_switched, one.loss, switch))
                for one, switch in zip(losses, switches, strict=True)
            ]
            FLAT_LOSSES_OF_OUTPUTS.put(loss_container(self.model), switched)
        return switches

    def _losses(self) -> list[Any]:
        container, name = loss_container(self.model), FLAT_LOSSES_OF_OUTPUTS
        has_any = container is not None and name.is_due
        return name.of(container) or [] if has_any else []

    def outputs(self) -> list[str]:
        """The name of each output that has a loss."""
        return [one.name or "" for one in self._losses()]

    def reduced(self, outputs: Any, strategy: Any) -> Any:
        """What all replicas returned, as one, as `fit` makes it."""
        return REDUCE_PER_REPLICA.found()(outputs, strategy, reduction="auto")

    def logs(self, outputs: Any) -> Any:
        """What `fit` shows after an epoch of this step."""
        tracker = LOSS_TRACKER.of(self.model)
        if tracker is None or not float(np.asarray(tracker.count)):
            return outputs
        return METRICS_RESULT_OR_LOGS.of(self.model)(outputs)


class CompiledTfKeras(Compiled):
    """The same for a model of tf-keras."""

    def build(self, devices: Devices, batch: Any) -> list[tf.Variable]:
        """As for Keras 3."""
        losses, metrics = loss_container(self.model), self.model.compiled_metrics
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        with devices.scope():
            y_pred = self.model(x)
            losses.build(y_pred)
            if metrics is not None and y is not None:
                metrics.build(y_pred, y)
        held = BUILT_LOSSES.of(losses)
        switches = [tf.Variable(1.0) for loss in held if loss is not None]
        left = iter(switches)
        exchange_losses(losses, lambda loss: _Switched(loss, next(left)))
        return switches

    def outputs(self) -> list[str]:
        """As for Keras 3."""
        container = loss_container(self.model)
        losses = BUILT_LOSSES.of(container)
        pairs = zip(OUTPUT_NAMES.of(container), losses, strict=True)
        return [name for name, loss in pairs if loss is not None]

    def reduced(self, outputs: Any, strategy: Any) -> Any:
        """As for Keras 3."""
        method = self.model.distribute_reduction_method
        return REDUCE_OF_TF_KERAS.found()(outputs, strategy, reduction=method)

    def logs(self, outputs: Any) -> Any:
        """As for Keras 3."""
        return METRICS_RESULT.of(self.model)(outputs)


def compiled(model: Any) -> Compiled | None:
    """`model`, if it is one of a Keras; None for a loop of the user's.

    Raises:
      AuditError: it is one, and not compiled.
    """
    if isinstance(model, keras.Model):
        return Compiled(model)
    return CompiledTfKeras(model) if tf_keras.is_model(model) else None


class _Switched:
    """A loss of tf-keras with a factor."""

    def __init__(self, loss: Any, switch: tf.Variable) -> None:
        self._loss, self._switch = loss, switch
        self.reduction = loss.reduction

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return _switched(self._loss, self._switch, y_true, y_pred, sample_weight)


def _switched(
    loss: Any, switch: tf.Variable, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    value = loss(y_true, y_pred, sample_weight=sample_weight)
    return value * tf.cast(switch, value.dtype)

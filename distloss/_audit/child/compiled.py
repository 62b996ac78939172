"""Compiled models of Keras 3 and of tf-keras, as a child of the audit runs them."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._audit.child.devices import Devices
from distloss._errors import AuditError
from distloss._keras import tf_keras
from distloss._keras.compiled_model import is_compiled, loss_container


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
        name = (
            "_symbolic_build" if devices.strategy is None else "_maybe_symbolic_build"
        )
        build = getattr(self.model, name, None)
        if build is not None:
            build(data_batch=batch)
        losses = getattr(loss_container(self.model), "_flat_losses", None) or []
        switches = [tf.Variable(1.0) for _ in losses]
        if losses:
            loss_container(self.model)._flat_losses = [
                one._replace(loss=functools.partial(_switched, one.loss, switch))
                for one, switch in zip(losses, switches, strict=True)
            ]
        return switches

    def outputs(self) -> list[str]:
        """The name of each output that has a loss."""
        losses = getattr(loss_container(self.model), "_flat_losses", None) or []
        return [one.name or "" for one in losses]

    def reduced(self, outputs: Any, strategy: Any) -> Any:
        """What all replicas returned, as one, as `fit` makes it."""
        from keras.src.backend.tensorflow.trainer import reduce_per_replica

        return reduce_per_replica(outputs, strategy, reduction="auto")

    def logs(self, outputs: Any) -> Any:
        """What `fit` shows after an epoch of this step."""
        tracker = getattr(self.model, "_loss_tracker", None)
        if tracker is None or not float(np.asarray(tracker.count)):
            return outputs
        return self.model._get_metrics_result_or_logs(outputs)


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
        switches = [tf.Variable(1.0) for loss in losses._losses if loss is not None]
        left = iter(switches)
        losses._losses = [
            None if loss is None else _Switched(loss, next(left))
            for loss in losses._losses
        ]
        return switches

    def outputs(self) -> list[str]:
        """As for Keras 3."""
        container = loss_container(self.model)
        pairs = zip(container._output_names, container._losses, strict=True)
        return [name for name, loss in pairs if loss is not None]

    def reduced(self, outputs: Any, strategy: Any) -> Any:
        """As for Keras 3."""
        training = importlib.import_module("tf_keras.src.engine.training")
        method = self.model.distribute_reduction_method
        return training.reduce_per_replica(outputs, strategy, reduction=method)

    def logs(self, outputs: Any) -> Any:
        """As for Keras 3."""
        return self.model._validate_and_get_metrics_result(outputs)


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

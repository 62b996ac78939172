"""What compiled models of either Keras hold in private attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker
from keras.src.trainers.compile_utils import CompileLoss, get_loss


def losses_given_to(model: Any) -> list[Any]:
    """The losses with which `model` was compiled, one after another."""
    given = tf.nest.flatten(_losses_in(loss_container(model)))
    return [loss for loss in given if loss is not None]


def loss_container(model: Any) -> Any:
    """What computes the loss of `model`; None where it was compiled without."""
    is_keras_3 = isinstance(model, keras.Model)
    return model._compile_loss if is_keras_3 else model.compiled_loss


def _losses_in(container: Any) -> Any:
    """The losses as they were given to `compile`."""
    if isinstance(container, CompileLoss):
        return container._user_loss
    return getattr(container, "_user_losses", None)


def with_losses(model: Any, wrap: Callable[[Any], Any]) -> Any:
    """What computes the loss of `model`, where `wrap` was called with each loss.

    What it has itself, where that changes no loss.
    """
    container = loss_container(model)
    given = _losses_in(container)
    if given is None:
        return container
    wrapped = keras.tree.map_structure(wrap, given)
    # What is wrapped already stays, and with it what Keras has built around it.
    if keras.tree.flatten(wrapped) == keras.tree.flatten(given):
        return container
    # No public name makes one; both Kerases call it in the same way.
    names = (container if isinstance(model, keras.Model) else model).output_names
    return type(container)(wrapped, container._user_loss_weights, output_names=names)


def hold_losses(model: Any, container: Any) -> None:
    """Lets `container` compute the loss of `model`."""
    if isinstance(model, keras.Model):
        model._compile_loss = container
    else:
        model.compiled_loss = container


def is_compiled(model: Any) -> bool:
    """Whether `compile` was called."""
    is_keras_3 = isinstance(model, keras.Model)
    return bool(model.compiled if is_keras_3 else model._is_compiled)


def strategy_given_to(model: Any) -> tf.distribute.Strategy | None:
    """The strategy in whose scope `model` was made; None without one."""
    is_keras_3 = isinstance(model, keras.Model)
    return model._distribute_strategy if is_keras_3 else model._distribution_strategy


def layers_of(model: Any) -> list[Any]:
    """`model`, its layers, and theirs, each once."""
    return list(model._flatten_layers())


def build_alone(model: keras.Model, data: Any) -> None:
    """Makes the variables of `model` for `data`; `fit` does it under a strategy."""
    if model._distribute_strategy is None:
        model._symbolic_build(data_batch=data)


def track_loss(model: keras.Model, loss: tf.Tensor, rows: Any) -> None:
    """Reports the loss of a batch of so many rows as `loss` in what `fit` shows."""
    model._loss_tracker.update_state(loss, sample_weight=rows)


def output_trackers(model: keras.Model) -> list[Any]:
    """The metrics of the losses of single outputs, where there are several."""
    return getattr(model._compile_loss, "metrics", [])


def compiled_metrics(model: keras.Model) -> list[Any]:
    """The metrics with which `model` was compiled."""
    return getattr(model._compile_metrics, "metrics", [])


def loss_for_shapes(identifier: Any, y_true: Any, y_pred: Any) -> keras.losses.Loss:
    """The loss that an identifier of `compile` means for targets of these shapes.

    `"crossentropy"` is binary, categorical or sparse, and no public name says which.
    """
    return get_loss(identifier, y_true, y_pred)


def averages_over_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether Keras takes a mean over axis 0 of what steps report, over workers."""
    return bool(_collective_all_reduce_multi_worker(strategy))

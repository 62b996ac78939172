"""What compiled models hold in private attributes, and how Keras reads their steps."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import _collective_all_reduce_multi_worker
from keras.src.trainers.compile_utils import CompileLoss, get_loss


def losses_given_to(model: Any) -> list[Any]:
    """The losses with which a model of either Keras was compiled, one after another."""
    if isinstance(model, keras.Model):
        given = getattr(model._compile_loss, "_user_loss", None)
        losses = keras.tree.flatten(given)
    else:
        losses = tf.nest.flatten(model.compiled_loss._user_losses)
    return [loss for loss in losses if loss is not None]


def with_losses(compiled: CompileLoss, losses: Any) -> CompileLoss:
    """What computes the loss of a model of Keras 3: as `compiled`, of other losses.

    `CompileLoss` is what `compile` makes of losses, and no public name.
    """
    weights, names = compiled._user_loss_weights, compiled.output_names
    return CompileLoss(losses, weights, output_names=names)


def loss_for_shapes(identifier: Any, y_true: Any, y_pred: Any) -> keras.losses.Loss:
    """The loss that an identifier of `compile` means for targets of these shapes.

    `"crossentropy"` is binary, categorical or sparse, and no public name says which.
    """
    return get_loss(identifier, y_true, y_pred)


def averages_over_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether Keras takes a mean over axis 0 of what steps report, over workers."""
    return bool(_collective_all_reduce_multi_worker(strategy))

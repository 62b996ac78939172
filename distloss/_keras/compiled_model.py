"""What compiled models hold in private attributes, and how Keras reads their steps."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def losses_given_to(model: Any) -> list[Any]:
    """The losses with which a model of either Keras was compiled, one after another."""
    if isinstance(model, keras.Model):
        given = getattr(model._compile_loss, "_user_loss", None)
        losses = keras.tree.flatten(given)
    else:
        losses = tf.nest.flatten(model.compiled_loss._user_losses)
    return [loss for loss in losses if loss is not None]

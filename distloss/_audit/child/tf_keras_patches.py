"""What a child of the audit patches in tf-keras, where the user has loaded it."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from distloss._audit.child.ablation import Ablation
from distloss._audit.child.clipping import plain
from distloss._audit.child.determinism import Determinism
from distloss._keras.private_names.of_audit import (
    RANDOM_GENERATOR,
    check_names_of_tf_keras,
)


@functools.cache
def patch(ablation: Ablation, determinism: Determinism) -> None:
    """Lets tf-keras be ablated and without chance, once."""
    check_names_of_tf_keras()
    tf_keras: Any = importlib.import_module("tf_keras")
    ablation.clipping.patch_optimizers(
        _owner(tf_keras.optimizers.Optimizer, "_clip_gradients")
    )
    batch_norm = _owner(tf_keras.layers.BatchNormalization, "call")
    ablation.patch_batch_norm(batch_norm)
    _patch_terms(ablation, tf_keras.layers.Layer)
    _pin(determinism, tf_keras)


def _owner(cls: Any, method: str) -> Any:
    """The class from which `cls` has a method."""
    return next(base for base in cls.__mro__ if method in vars(base))


def _patch_terms(ablation: Ablation, layer: Any) -> None:
    add_loss, losses = layer.add_loss, layer.losses

    def add(this: Any, terms: Any, **kwargs: Any) -> Any:
        terms = terms if isinstance(terms, list | tuple) else [terms]
        factor = ablation.added_by(this)
        return add_loss(this, ablation.scaled("added", list(terms), factor), **kwargs)

    def with_scaled_regularizers(this: Any) -> list[Any]:
        return [_scaled(ablation, loss) for loss in losses.fget(this)]

    layer.add_loss = plain(add)
    layer.losses = property(with_scaled_regularizers)


def _scaled(ablation: Ablation, loss: Any) -> Any:
    if not getattr(loss, "_unconditional_loss", False):
        return loss
    (scaled,) = ablation.scaled("regularizers", [loss], ablation.regularizers)
    scaled._unconditional_loss = True
    return scaled


def _pin(determinism: Determinism, tf_keras: Any) -> None:
    generator: Any = RANDOM_GENERATOR.found()
    generator.dropout = _method(generator.dropout, determinism.without_dropout)
    layers = tf_keras.layers
    for layer in (layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout):
        determinism.switch_off(layer)


def _method(original: Any, pin: Any) -> Any:
    """`original`, a method, with `pin` on the function that it is of an object."""

    def method(this: Any, *args: Any, **kwargs: Any) -> Any:
        return pin(functools.partial(original, this))(*args, **kwargs)

    return plain(method)

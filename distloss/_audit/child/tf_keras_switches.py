"""What a child of the audit patches in tf-keras, where the user has loaded it."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from distloss._audit.child.pins import Pins
from distloss._audit.child.switches import Switches, plain


@functools.cache
def patch(switches: Switches, pins: Pins) -> None:
    """Puts switches and pins in, once."""
    tf_keras: Any = importlib.import_module("tf_keras")
    switches.patch_optimizers(_owner(tf_keras.optimizers.Optimizer, "_clip_gradients"))
    batch_norm = _owner(tf_keras.layers.BatchNormalization, "call")
    switches.patch_batch_norm(batch_norm)
    _patch_terms(switches, tf_keras.layers.Layer)
    _pin(pins, tf_keras)


def _owner(cls: Any, method: str) -> Any:
    """The class from which `cls` has a method."""
    return next(base for base in cls.__mro__ if method in vars(base))


def _patch_terms(switches: Switches, layer: Any) -> None:
    add_loss, losses = layer.add_loss, layer.losses

    def add(this: Any, terms: Any, **kwargs: Any) -> Any:
        terms = terms if isinstance(terms, list | tuple) else [terms]
        factor = switches.added_by(this)
        return add_loss(this, switches.scaled("added", list(terms), factor), **kwargs)

    def with_scaled_regularizers(this: Any) -> list[Any]:
        return [_scaled(switches, loss) for loss in losses.fget(this)]

    layer.add_loss = plain(add)
    layer.losses = property(with_scaled_regularizers)


def _scaled(switches: Switches, loss: Any) -> Any:
    if not getattr(loss, "_unconditional_loss", False):
        return loss
    (scaled,) = switches.scaled("regularizers", [loss], switches.regularizers)
    scaled._unconditional_loss = True
    return scaled


def _pin(pins: Pins, tf_keras: Any) -> None:
    generator: Any = importlib.import_module("tf_keras.src.backend").RandomGenerator
    generator.dropout = _method(generator.dropout, pins.without_dropout)
    layers = tf_keras.layers
    for layer in (layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout):
        pins.switch_off(layer)


def _method(original: Any, pin: Any) -> Any:
    """`original`, a method, with `pin` on the function that it is of an object."""

    def method(this: Any, *args: Any, **kwargs: Any) -> Any:
        return pin(functools.partial(original, this))(*args, **kwargs)

    return plain(method)

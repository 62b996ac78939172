"""What a step has besides its loss, switched off for a while to see what it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.private_names.of_optimizers import CLIP


@contextlib.contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, tf.autograph.experimental.do_not_convert(function))
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def clipping(found: set[str], *, is_on: bool) -> Iterator[None]:
    """Notes "clip" where a step clips gradients; not `is_on`, they stay as they are."""
    base: Any = keras.optimizers.Optimizer
    of_keras, of_norms = CLIP.of(base), tf.clip_by_global_norm

    def clip_gradients(optimizer: Any, grads: Any) -> Any:
        names = ("clipnorm", "global_clipnorm", "clipvalue")
        if all(getattr(optimizer, name, None) is None for name in names):
            return of_keras(optimizer, grads)
        found.add("clip")
        return of_keras(optimizer, grads) if is_on else grads

    def clip_by_global_norm(
        t_list: Any, clip_norm: Any, use_norm: Any = None, name: Any = None
    ) -> Any:
        found.add("clip")
        clipped = of_norms(t_list, clip_norm, use_norm, name)
        return clipped if is_on else (t_list, clipped[1])

    with (
        _replaced(base, CLIP.name, clip_gradients),
        _replaced(tf, "clip_by_global_norm", clip_by_global_norm),
    ):
        yield


@contextlib.contextmanager
def batch_statistics(found: set[str], *, is_on: bool) -> Iterator[None]:
    """Notes "batch_norm"; not `is_on`, BatchNormalization uses its moving averages."""
    layer: Any = keras.layers.BatchNormalization
    call = layer.call

    def frozen(this: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if training:
            found.add("batch_norm")
        return call(this, inputs, training=training and is_on, mask=mask)

    with _replaced(layer, "call", frozen):
        yield


@contextlib.contextmanager
def tapes_watched(watcher: Callable[[Any, Any], None]) -> Iterator[None]:
    """Calls `watcher(sources, gradients)` with what tapes are asked for, and give."""
    of_tape = tf.GradientTape.gradient

    def gradient(
        this: Any, target: Any, sources: Any, *args: Any, **kwargs: Any
    ) -> Any:
        gradients = of_tape(this, target, sources, *args, **kwargs)
        watcher(sources, gradients)
        return gradients

    with _replaced(tf.GradientTape, "gradient", gradient):
        yield

"""Clipping of gradients, which a child of the audit switches off, on and tighter."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from distloss._audit.child.slices import Slices
from distloss._keras.private_names.of_audit import BASE_OPTIMIZER

if TYPE_CHECKING:
    from distloss._audit.child.ablation import Ablation


class Clipping:
    """Gradients are multiplied before clipping and divided after; by 0: not clipped.

    Args:
      ablation: says whether a step runs, and is told what it has.
      slices: what counts and adds up slices of sparse gradients.

    Attributes:
      settings: how each optimizer clips, by its id.
    """

    def __init__(self, ablation: Ablation, slices: Slices) -> None:
        self._ablation, self.slices = ablation, slices
        self._scale = tf.Variable(0.0)
        self.settings: dict[int, dict[str, float]] = {}
        self._thread = threading.local()

    def put(self, probe: dict[str, Any]) -> None:
        """Clips from now on as a probe says."""
        self._scale.assign(probe["clip"])
        self.slices.put(probe["slices_added"])

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        return {id(self._scale)} | self.slices.own_variables()

    def patch(self) -> None:
        """Puts a switch on the ways to clip of TensorFlow and Keras 3."""
        self._patch_functions()
        self.patch_optimizers(BASE_OPTIMIZER.found())

    def patch_optimizers(self, base: Any) -> None:
        """Puts a switch on how optimizers of class `base` clip."""
        keras_clip = base._clip_gradients

        def clip_gradients(optimizer: Any, grads: Any) -> Any:
            settings = {
                name: getattr(optimizer, name)
                for name in ("clipnorm", "global_clipnorm", "clipvalue")
                if getattr(optimizer, name, None) is not None
            }
            if not settings:
                return keras_clip(optimizer, grads)
            if self._ablation.active:
                self.settings[id(optimizer)] = settings
            return self._switched(functools.partial(keras_clip, optimizer), grads)

        base._clip_gradients = plain(clip_gradients)

    def _patch_functions(self) -> None:
        global_norm, by_norm = tf.clip_by_global_norm, tf.clip_by_norm

        def clip_by_global_norm(
            t_list: Any, clip_norm: Any, use_norm: Any = None, name: Any = None
        ) -> Any:
            norm = tf.linalg.global_norm(t_list) if use_norm is None else use_norm
            clip = functools.partial(self._global_clip, global_norm, clip_norm)
            return self._by_hand(clip, list(t_list)), norm

        def clip_by_norm(
            t: Any, clip_norm: Any, axes: Any = None, name: Any = None
        ) -> Any:
            def clip(grads: Any) -> list[Any]:
                return [by_norm(grads[0], clip_norm, axes)]

            return self._by_hand(clip, [t])[0]

        tf.clip_by_global_norm = plain(clip_by_global_norm)
        tf.clip_by_norm = plain(clip_by_norm)

    @staticmethod
    def _global_clip(function: Any, clip_norm: Any, grads: Any) -> Any:
        return function(grads, clip_norm)[0]

    def _by_hand(self, clip: Callable[[Any], Any], grads: Any) -> Any:
        if self._is_asleep() or not self._ablation.has_taken_gradients():
            return clip(grads)  # nothing is a gradient before the first is taken
        self._ablation.found.add("clip_by_hand")
        return self._switched(clip, grads)

    def _is_asleep(self) -> bool:
        return not self._ablation.active or getattr(self._thread, "inside", False)

    def _switched(self, clip: Callable[[Any], Any], grads: Any) -> Any:
        if self._is_asleep():
            return clip(grads)
        self._ablation.found.add("clip")
        grads = [self.slices.seen(gradient) for gradient in grads]
        self._thread.inside = True
        try:
            # A whole function, so that nothing of `clip` is seen by the switch.
            clipped = clip([_times(gradient, self._scale) for gradient in grads])
        finally:
            self._thread.inside = False
        pairs = zip(clipped, grads, strict=True)
        return [_chosen(self._scale, clip, raw) for clip, raw in pairs]


def plain(function: Callable[..., Any]) -> Any:
    """`function`, which AutoGraph leaves as it is."""
    return tf.autograph.experimental.do_not_convert(function)


def _times(gradient: Any, factor: Any) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    gradient = tf.convert_to_tensor(gradient)
    return gradient * tf.cast(factor, gradient.dtype)


def _chosen(scale: tf.Variable, clipped: Any, raw: Any) -> Any:
    """`clipped / scale`, or `raw` where the scale is 0."""
    if raw is None:
        return None
    if isinstance(raw, tf.IndexedSlices) and isinstance(clipped, tf.IndexedSlices):
        values = _chosen(scale, clipped.values, raw.values)
        return tf.IndexedSlices(values, raw.indices, raw.dense_shape)
    # Clipping by value makes a dense tensor of slices.
    clipped, raw = tf.convert_to_tensor(clipped), tf.convert_to_tensor(raw)
    factor = tf.cast(scale, clipped.dtype)
    return tf.where(factor > 0, clipped / factor, raw)

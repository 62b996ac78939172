"""What a child of the audit patches, to switch parts of a step off and on.

Runs in a child process only, so that the classes and functions of TensorFlow and
Keras that are patched here are nobody else's.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from distloss._audit.child.slices import Slices


class Switches:
    """Terms of the loss and clipping, which can be turned off and on while running.

    Attributes:
      clip: gradients are multiplied by it before clipping and divided after; 0 is
        no clipping.
      added: factor of what layers add with `add_loss`.
      regularizers: factor of weight regularisers.
      outputs: one factor for each loss of a compiled model.
      active: whether a step is being traced or run.
      batch_norm: "frozen", "live" or "calibrating".
      found: which of these the step has.
      slices: what counts and adds up slices of sparse gradients.
      on_gradients: called with what a tape was asked for and gave.
      targets: of what tapes take gradients, as far as it is traced.
      clips: how each optimizer clips, by its id.
      adders: the names of the layers that add losses.
    """

    def __init__(self, slices: Slices) -> None:
        self.slices = slices
        self.clip = tf.Variable(0.0)
        self.added = tf.Variable(1.0)
        self.only_added = tf.Variable(-1)  # the index of one of `adders`, or all
        self.regularizers = tf.Variable(1.0)
        self.outputs: list[tf.Variable] = []
        self.active = False
        self.batch_norm = "frozen"
        self.found: set[str] = set()
        self.on_gradients: Callable[[Any, Any, Any], None] = _nothing
        self.targets: list[Any] = []
        self.clips: dict[int, dict[str, float]] = {}
        self.adders: list[str] = []
        self._known_adders: list[Any] = []
        self._thread = threading.local()

    def put(self, probe: dict[str, Any]) -> None:
        """Turns them off and on, as a probe says."""
        self.clip.assign(probe["clip"])
        self.added.assign(probe["added"])
        only = probe["only_added"]
        self.only_added.assign(-1 if only is None else only)
        self.regularizers.assign(probe["regularizers"])
        outputs = probe["outputs"]
        for i, switch in enumerate(self.outputs):
            switch.assign(outputs[i] if i < len(outputs) else 1.0)
        self.slices.put(probe["slices_added"])

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        ours = [self.clip, self.added, self.only_added, self.regularizers]
        return {id(v) for v in (*ours, *self.outputs)} | self.slices.own_variables()

    def patch(self) -> None:
        """Puts the switches in."""
        self._patch_tapes()
        self._patch_clipping()
        self.patch_optimizers(BaseOptimizer)
        self._patch_terms()
        self.patch_batch_norm(keras.layers.BatchNormalization)

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.tapes = 0

    def _patch_tapes(self) -> None:
        original = tf.GradientTape.gradient

        def gradient(
            this: Any, target: Any, sources: Any, *args: Any, **kwargs: Any
        ) -> Any:
            found = original(this, target, sources, *args, **kwargs)
            if self.active:
                self._thread.tapes = getattr(self._thread, "tapes", 0) + 1
                if not tf.executing_eagerly():
                    self.targets += tf.nest.flatten(target)
                self.on_gradients(target, sources, found)
            return found

        tf.GradientTape.gradient = plain(gradient)

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
            if self.active:
                self.clips[id(optimizer)] = settings
            return self._switched(functools.partial(keras_clip, optimizer), grads)

        base._clip_gradients = plain(clip_gradients)

    def _patch_clipping(self) -> None:
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
        if self._is_asleep() or not getattr(self._thread, "tapes", 1):
            return clip(grads)  # before the first gradient is taken, this is none
        self.found.add("clip_by_hand")
        return self._switched(clip, grads)

    def _is_asleep(self) -> bool:
        return not self.active or getattr(self._thread, "inside", False)

    def _switched(self, clip: Callable[[Any], Any], grads: Any) -> Any:
        if self._is_asleep():
            return clip(grads)
        self.found.add("clip")
        grads = [self.slices.seen(gradient) for gradient in grads]
        self._thread.inside = True
        try:
            # A whole function, so that nothing of `clip` is seen by the switch.
            clipped = clip([_times(gradient, self.clip) for gradient in grads])
        finally:
            self._thread.inside = False
        pairs = zip(clipped, grads, strict=True)
        return [_chosen(self.clip, clip, raw) for clip, raw in pairs]

    def _patch_terms(self) -> None:
        layer: Any = keras.layers.Layer
        regularization, add_loss = layer._get_regularization_losses, layer.add_loss

        def get_regularization_losses(this: Any) -> Any:
            losses = regularization(this)
            return self.scaled("regularizers", losses, self.regularizers)

        def add(this: Any, loss: Any) -> Any:
            losses = keras.tree.flatten(loss)
            return add_loss(this, self.scaled("added", losses, self.added_by(this)))

        layer._get_regularization_losses = plain(get_regularization_losses)
        layer.add_loss = plain(add)

    def added_by(self, layer: Any) -> Any:
        """The factor of what one layer adds."""
        if not self.active:
            return self.added
        if not any(layer is known for known in self._known_adders):
            self._known_adders.append(layer)
            self.adders.append(str(layer.name))
        index = next(i for i, one in enumerate(self._known_adders) if one is layer)
        is_on = (self.only_added < 0) | tf.equal(self.only_added, index)
        return self.added * tf.cast(is_on, tf.float32)

    def scaled(self, name: str, losses: list[Any], switch: Any) -> list[Any]:
        """`losses`, terms of the kind `name`, times `switch`."""
        if not self.active or not losses:
            return losses
        self.found.add(name)
        return [
            loss * tf.cast(switch, loss.dtype) if tf.is_tensor(loss) else loss
            for loss in losses
        ]

    def patch_batch_norm(self, layer: Any) -> None:
        """Lets layers of class `layer` be frozen."""
        call = layer.call

        def frozen_call(
            this: Any, inputs: Any, training: Any = None, mask: Any = None
        ) -> Any:
            if not self.active or not training:
                return call(this, inputs, training=training, mask=mask)
            self.found.add("batch_norm")
            if self.batch_norm == "frozen":
                return call(this, inputs, training=False, mask=mask)
            momentum = this.momentum
            if self.batch_norm == "calibrating":
                this.momentum = 0.0
            try:
                return call(this, inputs, training=training, mask=mask)
            finally:
                this.momentum = momentum

        layer.call = plain(frozen_call)


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


def _nothing(_target: Any, _sources: Any, _gradients: Any) -> None:
    """Notes nothing."""

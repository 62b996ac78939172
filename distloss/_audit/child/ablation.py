"""Ablation of a step, in a child of the audit: parts of it are switched off and on.

Runs in a child process only, so that the classes and functions of TensorFlow and
Keras that are patched here are nobody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._audit.child.clipping import Clipping, plain
from distloss._audit.child.slices import Slices
from distloss._keras.private_names.of_audit import REGULARIZATION_LOSSES


class Ablation:
    """Terms of the loss and BatchNormalization, which can be turned off and on.

    Attributes:
      clipping: the same for clipping.
      added: factor of what layers add with `add_loss`.
      regularizers: factor of weight regularisers.
      outputs: one factor for each loss of a compiled model.
      active: whether a step is being traced or run.
      batch_norm: "frozen", "live" or "calibrating".
      found: which of these the step has.
      on_gradients: called with what a tape was asked for and gave.
      targets: of what tapes take gradients, as far as it is traced.
      adders: the names of the layers that add losses.
    """

    def __init__(self, slices: Slices) -> None:
        self.clipping = Clipping(self, slices)
        self.added = tf.Variable(1.0)
        self.only_added = tf.Variable(-1)  # the index of one of `adders`, or all
        self.regularizers = tf.Variable(1.0)
        self.outputs: list[tf.Variable] = []
        self.active = False
        self.batch_norm = "frozen"
        self.found: set[str] = set()
        self.on_gradients: Callable[[Any, Any, Any], None] = _nothing
        self.targets: list[Any] = []
        self.adders: list[str] = []
        self._known_adders: list[Any] = []
        self._thread = threading.local()

    def put(self, probe: dict[str, Any]) -> None:
        """Turns them off and on, as a probe says."""
        self.added.assign(probe["added"])
        only = probe["only_added"]
        self.only_added.assign(-1 if only is None else only)
        self.regularizers.assign(probe["regularizers"])
        outputs = probe["outputs"]
        for i, switch in enumerate(self.outputs):
            switch.assign(outputs[i] if i < len(outputs) else 1.0)
        self.clipping.put(probe)

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        ours = [self.added, self.only_added, self.regularizers, *self.outputs]
        return {id(v) for v in ours} | self.clipping.own_variables()

    def patch(self) -> None:
        """Puts switches into TensorFlow and Keras 3."""
        self._patch_tapes()
        self.clipping.patch()
        self._patch_terms()
        self.patch_batch_norm(keras.layers.BatchNormalization)

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.tapes = 0

    def has_taken_gradients(self) -> bool:
        """Whether this replica took gradients in this step, as far as is known."""
        return bool(getattr(self._thread, "tapes", 1))

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

    def _patch_terms(self) -> None:
        layer: Any = keras.layers.Layer
        regularization, add_loss = REGULARIZATION_LOSSES.of(layer), layer.add_loss

        def get_regularization_losses(this: Any) -> Any:
            losses = regularization(this)
            return self.scaled("regularizers", losses, self.regularizers)

        def add(this: Any, loss: Any) -> Any:
            losses = keras.tree.flatten(loss)
            return add_loss(this, self.scaled("added", losses, self.added_by(this)))

        REGULARIZATION_LOSSES.put(layer, plain(get_regularization_losses))
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


def _nothing(_target: Any, _sources: Any, _gradients: Any) -> None:
    """Notes nothing."""

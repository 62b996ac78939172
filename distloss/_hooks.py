"""What a child of the audit patches, to see and to switch what a step does.

Runs in a child process only, so that the classes and functions of TensorFlow and
Keras that are patched here are nobody else's.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer


def components(variable: Any) -> list[tf.Variable]:
    """The variable of each replica that `variable` consists of."""
    inner = variable.value if isinstance(variable, keras.Variable) else variable
    return list(getattr(inner, "values", None) or [inner])


def dense(gradient: Any, dtype: tf.DType) -> tf.Tensor:
    """A gradient as a tensor; `tf.IndexedSlices` are added up."""
    return tf.cast(tf.convert_to_tensor(gradient), dtype)


class Recorder:
    """The gradients that reach an update rule, per variable and replica."""

    def __init__(self) -> None:
        self._cells: dict[int, tuple[tf.Variable, tf.Variable]] = {}
        self._rows: list[list[tf.Variable]] = []
        self._thread = threading.local()

    def watch(self, variables: Sequence[Any]) -> None:
        """Makes room for the gradients of `variables`; forgets others."""
        watched = [component for row in self._rows for component in row]
        wanted = [component for v in variables for component in components(v)]
        if list(map(id, watched)) == list(map(id, wanted)):
            return  # another trace may report to these already
        self._cells, self._rows = {}, []
        for variable in variables:
            row = []
            for component in components(variable):
                with tf.device(component.device):
                    cell = tf.Variable(tf.zeros(component.shape, _wide(component)))
                    count = tf.Variable(0, dtype=tf.int64)
                self._cells[id(component)] = (cell, count)
                row.append(component)
            self._rows.append(row)

    def clear(self) -> None:
        """Before a probe."""
        for cell, count in self._cells.values():
            cell.assign(tf.zeros_like(cell))
            count.assign(0)

    def seen(self, index: int) -> bool:
        """Whether an update of this variable was recorded since `clear`."""
        cells = [self._cells[id(component)] for component in self._rows[index]]
        return any(int(count.numpy()) > 0 for _, count in cells)

    def gradients(self, index: int) -> list[np.ndarray]:
        """What arrived, on each replica."""
        return [self._cells[id(c)][0].numpy() for c in self._rows[index]]

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        return {id(v) for pair in self._cells.values() for v in pair}

    def patch(self) -> None:
        """Lets every optimizer class that exists report to this recorder."""
        for base in _optimizer_bases():
            for cls in _family(base):
                original = vars(cls).get("update_step")
                if original is not None and not hasattr(original, "_audited"):
                    cls.update_step = self._recording(original)

    def _recording(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def update_step(
            optimizer: Any, gradient: Any, variable: Any, *args: Any, **kwargs: Any
        ) -> Any:
            outermost = not getattr(self._thread, "inside", False)
            if outermost:
                self._record(gradient, variable)
            self._thread.inside = True
            try:
                return original(optimizer, gradient, variable, *args, **kwargs)
            finally:
                if outermost:
                    self._thread.inside = False

        update_step._audited = True  # type: ignore[attr-defined]
        return tf.autograph.experimental.do_not_convert(update_step)

    def _record(self, gradient: Any, variable: Any) -> None:
        inner = variable.value if isinstance(variable, keras.Variable) else variable
        if id(inner) not in self._cells and hasattr(inner, "_get"):
            inner = inner._get()  # this replica's own, in replica context
        if gradient is None or id(inner) not in self._cells:
            return
        cell, count = self._cells[id(inner)]
        cell.assign(dense(gradient, cell.dtype))
        count.assign_add(1)


def _wide(variable: tf.Variable) -> tf.DType:
    return tf.float64 if variable.dtype == tf.float64 else tf.float32


def _optimizer_bases() -> list[Any]:
    found: list[Any] = [BaseOptimizer]
    legacy = sys.modules.get("tf_keras")
    if legacy is not None:
        found.append(legacy.optimizers.Optimizer)
    return found


def _family(cls: Any) -> Iterator[Any]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)


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
    """

    def __init__(self) -> None:
        self.clip = tf.Variable(0.0)
        self.added = tf.Variable(1.0)
        self.regularizers = tf.Variable(1.0)
        self.outputs: list[tf.Variable] = []
        self.active = False
        self.batch_norm = "frozen"
        self.found: set[str] = set()
        self.tapes = 0  # gradients that one replica takes in one step
        self.clips: list[dict[str, float]] = []
        self._thread = threading.local()

    def put(
        self, clip: float, added: float, regularizers: float, outputs: Sequence[float]
    ) -> None:
        """Turns them off and on."""
        self.clip.assign(clip)
        self.added.assign(added)
        self.regularizers.assign(regularizers)
        for i, switch in enumerate(self.outputs):
            switch.assign(outputs[i] if i < len(outputs) else 1.0)

    def own_variables(self) -> set[int]:
        """The ids of the variables that are ours."""
        ours = [self.clip, self.added, self.regularizers, *self.outputs]
        return {id(variable) for variable in ours}

    def patch(self) -> None:
        """Puts the switches in."""
        self._patch_tapes()
        self._patch_clipping()
        self._patch_terms()
        self._patch_batch_norm()

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.tapes = 0

    def _patch_tapes(self) -> None:
        original = tf.GradientTape.gradient

        def gradient(this: Any, *args: Any, **kwargs: Any) -> Any:
            if self.active:
                self._thread.tapes = getattr(self._thread, "tapes", 0) + 1
                self.tapes = max(self.tapes, self._thread.tapes)
            return original(this, *args, **kwargs)

        tf.GradientTape.gradient = _plain(gradient)

    def _patch_clipping(self) -> None:
        keras_clip = BaseOptimizer._clip_gradients

        def clip_gradients(optimizer: Any, grads: Any) -> Any:
            settings = {
                name: getattr(optimizer, name)
                for name in ("clipnorm", "global_clipnorm", "clipvalue")
                if getattr(optimizer, name, None) is not None
            }
            if not settings:
                return keras_clip(optimizer, grads)
            self.clips.append(settings)
            return self._switched(functools.partial(keras_clip, optimizer), grads)

        BaseOptimizer._clip_gradients = _plain(clip_gradients)
        global_norm, by_norm = tf.clip_by_global_norm, tf.clip_by_norm

        def clip_by_global_norm(
            t_list: Any, clip_norm: Any, use_norm: Any = None, name: Any = None
        ) -> Any:
            norm = tf.linalg.global_norm(t_list) if use_norm is None else use_norm
            clip = functools.partial(self._global_clip, global_norm, clip_norm)
            return self._switched(clip, list(t_list)), norm

        def clip_by_norm(
            t: Any, clip_norm: Any, axes: Any = None, name: Any = None
        ) -> Any:
            def clip(grads: Any) -> list[Any]:
                return [by_norm(grads[0], clip_norm, axes)]

            return self._switched(clip, [t])[0]

        tf.clip_by_global_norm = _plain(clip_by_global_norm)
        tf.clip_by_norm = _plain(clip_by_norm)

    @staticmethod
    def _global_clip(function: Any, clip_norm: Any, grads: Any) -> Any:
        return function(grads, clip_norm)[0]

    def _switched(self, clip: Callable[[Any], Any], grads: Any) -> Any:
        if not self.active or getattr(self._thread, "inside", False):
            return clip(grads)
        self.found.add("clip")
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
            return self._scaled("regularizers", losses, self.regularizers)

        def add(this: Any, loss: Any) -> Any:
            losses = self._scaled("added", keras.tree.flatten(loss), self.added)
            return add_loss(this, losses)

        layer._get_regularization_losses = _plain(get_regularization_losses)
        layer.add_loss = _plain(add)

    def _scaled(self, name: str, losses: list[Any], switch: tf.Variable) -> list[Any]:
        if not self.active or not losses:
            return losses
        self.found.add(name)
        return [
            loss * tf.cast(switch, loss.dtype) if tf.is_tensor(loss) else loss
            for loss in losses
        ]

    def split_outputs(self, model: Any) -> None:
        """Puts a switch on each loss of a compiled model."""
        losses = getattr(model._compile_loss, "_flat_losses", None) or []
        if not losses or self.outputs:
            return
        self.outputs = [tf.Variable(1.0) for _ in losses]
        model._compile_loss._flat_losses = [
            one._replace(loss=functools.partial(_switched_loss, one.loss, switch))
            for one, switch in zip(losses, self.outputs, strict=True)
        ]

    def _patch_batch_norm(self) -> None:
        layer: Any = keras.layers.BatchNormalization
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

        layer.call = _plain(frozen_call)


def _plain(function: Callable[..., Any]) -> Any:
    return tf.autograph.experimental.do_not_convert(function)


def _switched_loss(
    loss: Any, switch: tf.Variable, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    value = loss(y_true, y_pred, sample_weight)
    return value * tf.cast(switch, value.dtype)


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
    if isinstance(raw, tf.IndexedSlices):
        values = _chosen(scale, clipped.values, raw.values)
        return tf.IndexedSlices(values, raw.indices, raw.dense_shape)
    clipped = tf.convert_to_tensor(clipped)
    factor = tf.cast(scale, clipped.dtype)
    return tf.where(factor > 0, clipped / factor, raw)


class Pins:
    """Takes chance out of a step: dropout is off, and each row gets the same draw."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._thread = threading.local()

    def restart(self) -> None:
        """At the beginning of a step on one replica."""
        self._thread.draws = 0

    def patch(self) -> None:
        """Puts the pins in."""
        backend = keras.src.backend.random
        for module in {backend, sys.modules[backend.dropout.__module__]}:
            module.dropout = self._without_dropout(module.dropout)
            for name in ("normal", "uniform", "truncated_normal"):
                setattr(module, name, self._same_for_rows(getattr(module, name), name))
        tf.nn.dropout = self._without_dropout(tf.nn.dropout)
        for name in ("normal", "uniform", "truncated_normal"):
            function = getattr(tf.random, name)
            setattr(tf.random, name, self._same_for_rows(function, name))
        for layer in (keras.layers.GaussianNoise, keras.layers.GaussianDropout):
            self._switch_off(layer)
        self._switch_off(keras.layers.AlphaDropout)

    def _note(self) -> None:
        self._switches.found.add("randomness")

    def _without_dropout(self, original: Any) -> Any:
        def dropout(inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
            inputs = kwargs.pop("x", inputs)
            if not self._switches.active:
                return original(inputs, *args, **kwargs)
            self._note()
            return inputs

        return _plain(dropout)

    def _switch_off(self, layer: Any) -> None:
        call = layer.call

        def same(this: Any, inputs: Any, training: Any = False) -> Any:
            if not self._switches.active:
                return call(this, inputs, training=training)
            self._note()
            return inputs

        layer.call = _plain(same)

    def _same_for_rows(self, original: Any, name: str) -> Any:
        stateless = getattr(tf.random, f"stateless_{name}")

        def draw(shape: Any = (), *args: Any, **kwargs: Any) -> Any:
            if not self._switches.active or _initializes() or len(shape) == 0:
                return original(shape, *args, **kwargs)
            self._note()
            self._thread.draws = getattr(self._thread, "draws", 0) + 1
            whole = tf.convert_to_tensor(shape, tf.int32)
            one = tf.concat([[1], whole[1:]], 0)
            dtype = kwargs.get("dtype") or keras.config.floatx()
            low, high = _two(name, args, kwargs)
            row = stateless(one, [17, self._thread.draws], low, high, dtype=dtype)
            drawn = tf.broadcast_to(row, whole)
            static = tf.TensorShape(tf.get_static_value(whole, partial=True))
            return tf.ensure_shape(drawn, static)

        return _plain(draw)


def _two(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The two parameters of a distribution, however they were passed."""
    names = {"uniform": ("minval", "maxval")}.get(name, ("mean", "stddev"))
    given = dict(zip(names, args, strict=False)) | kwargs
    low = given.get(names[0], 0.0)
    high = given.get(names[1], 1.0)
    return low, 1.0 if high is None else high


def _initializes() -> bool:
    frame: Any = sys._getframe(2)
    for _ in range(8):
        if frame is None:
            return False
        if "initializers" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False

"""Takes chance out of a training step, in a child of the audit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._switches import Switches, plain


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
            module.dropout = self.without_dropout(module.dropout)
            for name in ("normal", "uniform", "truncated_normal"):
                setattr(module, name, self.same_for_rows(getattr(module, name), name))
        tf.nn.dropout = self.without_dropout(tf.nn.dropout)
        for name in ("normal", "uniform", "truncated_normal"):
            function = getattr(tf.random, name)
            setattr(tf.random, name, self.same_for_rows(function, name))
        for layer in (keras.layers.GaussianNoise, keras.layers.GaussianDropout):
            self.switch_off(layer)
        self.switch_off(keras.layers.AlphaDropout)

    def _note(self) -> None:
        self._switches.found.add("randomness")

    def without_dropout(self, original: Any) -> Any:
        """`original`, which drops nothing while a step runs."""

        def dropout(inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
            inputs = kwargs.pop("x", inputs)
            if not self._switches.active:
                return original(inputs, *args, **kwargs)
            self._note()
            return inputs

        return plain(dropout)

    def switch_off(self, layer: Any) -> None:
        """Lets layers of class `layer` do nothing while a step runs."""
        call = layer.call

        def same(this: Any, inputs: Any, training: Any = False) -> Any:
            if not self._switches.active:
                return call(this, inputs, training=training)
            self._note()
            return inputs

        layer.call = plain(same)

    def same_for_rows(self, original: Any, name: str) -> Any:
        """`original`, which draws the same for each row while a step runs."""
        stateless = getattr(tf.random, f"stateless_{name}")

        def draw(shape: Any = (), *args: Any, **kwargs: Any) -> Any:
            if not self._switches.active or _initializes():
                return original(shape, *args, **kwargs)
            whole = tf.convert_to_tensor(shape, tf.int32)
            if whole.shape == [0]:
                return original(shape, *args, **kwargs)
            self._note()
            self._thread.draws = getattr(self._thread, "draws", 0) + 1
            one = tf.concat([[1], whole[1:]], 0)
            dtype = kwargs.get("dtype") or keras.config.floatx()
            low, high = _two(name, args, kwargs)
            row = stateless(one, [17, self._thread.draws], low, high, dtype=dtype)
            drawn = tf.broadcast_to(row, whole)
            known = tf.get_static_value(whole, partial=True)
            return drawn if known is None else tf.ensure_shape(drawn, known)

        return plain(draw)


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

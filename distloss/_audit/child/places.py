"""Where the user's code made what a finding is about: file, line, call."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._audit.child.clipping import plain
from distloss._audit.child.holdings import optimizers_of
from distloss._keras.private_names.of_audit import BASE_OPTIMIZER
from distloss._package import FOLDER

Place = dict[str, Any]

_OTHERS = tuple(
    os.path.join(path, "")
    for path in (
        str(FOLDER),
        *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    )
)


def is_of_user(frame: Any) -> bool:
    """Whether a frame runs the user's code, and not that of a package."""
    path = frame.f_code.co_filename
    if path.startswith((*_OTHERS, tempfile.gettempdir() + os.sep + "__autograph")):
        return False
    return not path.startswith("<") and not any(
        f"{os.sep}{name}{os.sep}" in path for name in ("site-packages", "dist-packages")
    )


def here(call: str) -> Place | None:
    """The line of the user's code that is running, which does `call`."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if is_of_user(frame) and os.path.exists(frame.f_code.co_filename):
            return place_of(frame, call)
        frame = frame.f_back
    return None


def place_of(frame: Any, call: str) -> Place:
    """The line that a frame is at, which does `call`."""
    path = frame.f_code.co_filename
    return {"file": _short(path), "line": frame.f_lineno, "call": call}


def _short(path: str) -> str:
    """Relative to the working directory, for what is in it."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


class Places:
    """Where models were compiled, optimizers and layers made, gradients taken.

    Attributes:
      data: where a data set, or a batch, is dealt out to replicas.
    """

    def __init__(self) -> None:
        self._made: dict[
            int, tuple[Any, Place]
        ] = {}  # the object, so that its id stays
        self._gradient: Place | None = None
        self.data: Place | None = None

    def patch(self) -> None:
        """Notes this from now on, for Keras 3."""
        self._note(BASE_OPTIMIZER.found(), "__init__", lambda it: type(it).__name__)
        self.patch_models(keras)
        original = tf.GradientTape.gradient

        def gradient(this: Any, *args: Any, **kwargs: Any) -> Any:
            self._gradient = self._gradient or here("gradient")
            return original(this, *args, **kwargs)

        tf.GradientTape.gradient = plain(gradient)

    def patch_models(self, models: Any) -> None:
        """Notes what is compiled, and layers; of Keras 3 or tf-keras."""
        compiles = next(c for c in models.Model.__mro__ if "compile" in vars(c))
        self._note(compiles, "compile", lambda _: "compile")
        if models is not keras:
            self._note(
                models.optimizers.Optimizer, "__init__", lambda o: type(o).__name__
            )
        self._note(
            models.layers.BatchNormalization, "__init__", lambda it: type(it).__name__
        )

    def _note(self, cls: Any, method: str, call: Any) -> None:
        original = getattr(cls, method)

        @functools.wraps(original)
        def noting(this: Any, *args: Any, **kwargs: Any) -> Any:
            place = here(call(this))
            if place is not None:
                self._made[id(this)] = (this, place)
            return original(this, *args, **kwargs)

        # Keras reads arguments by a way that does not look behind a wrapper:
        # https://github.com/keras-team/keras/blob/v3.12.0/keras/src/ops/operation.py
        noting.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        setattr(cls, method, noting)

    def of(self, model: Any) -> dict[str, Place]:
        """Where what a model or a loop consists of was made, by what that is."""
        layers = [
            layer
            for layer in _layers_of(model)
            if isinstance(layer, keras.layers.BatchNormalization)
            or type(layer).__name__ == "BatchNormalization"
        ]
        found = {
            "loss": self._gradient or self._place([model]),
            "optimizer": self._place(optimizers_of(model)),
            "layer": self._place(layers),
            "data": self.data,
        }
        return {what: place for what, place in found.items() if place}

    def _place(self, things: Sequence[Any]) -> Place | None:
        known = (self._made.get(id(thing)) for thing in things)
        return next((place for _, place in filter(None, known)), None)


def _layers_of(model: Any) -> list[Any]:
    models = [model, *getattr(model, "held", ())]
    found = []
    for one in models:
        flatten = getattr(one, "_flatten_layers", None)
        found += list(flatten()) if flatten else []
    return found

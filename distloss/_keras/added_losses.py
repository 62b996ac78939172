"""What layers add with `add_loss`, kept apart for replicas that take turns.

Replicas of a strategy run as threads, one at a time, and where they meet in the middle
of a step each passes the turn on. A layer has one list of added losses for all of them,
which it clears when the next replica calls the model: when this replica goes on, its
`model.losses` would be those of another.
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/layers/layer.py

So while a replica waits for others, layers say before they change their lists.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.private_names.of_layers_and_losses import (
    CLEAR_LOSSES,
    LOSSES_ADDED,
)


class _Waiting:
    """A replica that waits for others: lists that these changed, as they were."""

    def __init__(self, group: Callable[[], Any]) -> None:
        self._group, self._own = group, group()
        self._before: dict[int, tuple[keras.Layer, list[Any]]] = {}

    def note(self, layer: keras.Layer) -> None:
        if self._group() is self._own:  # and no thread of something else
            self._before.setdefault(id(layer), (layer, LOSSES_ADDED.of(layer)[:]))

    def put_back(self) -> None:
        for layer, losses in self._before.values():
            set_losses(layer, losses)


_waiting: set[_Waiting] = set()
_lock = threading.Lock()
_of_keras: dict[str, Any] = {}  # methods of keras.Layer, while ours are in their place


@contextlib.contextmanager
def kept(group: Callable[[], Any]) -> Iterator[None]:
    """Keeps what layers added on this replica while others have their turn.

    Args:
      group: returns an object that is the same on all threads that take turns with the
        one that calls it, and on no other.
    """
    this = _Waiting(group)
    with _lock:
        if not _waiting:
            _replace_methods()
        _waiting.add(this)
    try:
        yield
    finally:
        with _lock:
            _waiting.remove(this)
            if not _waiting:
                _restore_methods()
    this.put_back()


def set_losses(layer: keras.Layer, losses: Sequence[Any]) -> None:
    """Makes `losses` what `layer` has added on this replica."""
    _note(layer)
    LOSSES_ADDED.of(layer)[:] = losses


def _note(layer: keras.Layer) -> None:
    for replica in tuple(_waiting):
        replica.note(layer)


def _replace_methods() -> None:
    CLEAR_LOSSES.check()
    for name, method in _METHODS.items():
        _of_keras[name] = getattr(keras.Layer, name)  # or what others put there
        setattr(keras.Layer, name, method)


def _restore_methods() -> None:
    for name, method in _of_keras.items():
        setattr(keras.Layer, name, method)


@tf.autograph.experimental.do_not_convert
def _add_loss(layer: keras.Layer, loss: Any) -> None:
    _note(layer)
    _of_keras["add_loss"](layer, loss)


@tf.autograph.experimental.do_not_convert
def _clear_losses(layer: keras.Layer) -> None:
    _note(layer)
    _of_keras[CLEAR_LOSSES.name](layer)


_METHODS = {"add_loss": _add_loss, CLEAR_LOSSES.name: _clear_losses}

"""Which variables a function would update through optimizers; nothing is updated."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from distloss._audit.child.loop import different
from distloss._audit.child.patches import replaced
from distloss._audit.child.recorder import family

Noted = Callable[[Any, list[Any]], None]


class Updates:
    """The updates of one call.

    Attributes:
      optimizers: that were asked for one.
      variables: that they were given.
    """

    def __init__(self) -> None:
        self.optimizers: list[Any] = []
        self.variables: list[Any] = []

    def note(self, optimizer: Any, variables: list[Any]) -> None:
        """Notes one, of any replica."""
        self.optimizers = different([*self.optimizers, optimizer])
        self.variables = different([*self.variables, *variables])


@contextlib.contextmanager
def instead_of_updates(note: Noted) -> Iterator[None]:
    """In here optimizers update nothing: `note` is called instead."""
    with contextlib.ExitStack() as stack:
        for cls in family(BaseOptimizer):
            if "apply" in vars(cls):
                stack.enter_context(replaced(cls, apply=_noting_apply(note)))
        tf_keras = sys.modules.get("tf_keras")
        for base in _of_tf_keras(tf_keras):
            for cls in family(base):
                if "apply_gradients" in vars(cls):
                    new = _noting_apply_gradients(note)
                    stack.enter_context(replaced(cls, apply_gradients=new))
        yield


def _of_tf_keras(tf_keras: Any) -> list[Any]:
    if tf_keras is None:
        return []
    return [tf_keras.optimizers.Optimizer, tf_keras.optimizers.legacy.Optimizer]


def _noting_apply(note: Noted) -> Any:
    def apply(
        optimizer: Any, grads: Any, trainable_variables: Any = None, **_: Any
    ) -> None:
        if trainable_variables is None:
            trainable_variables = optimizer._trainable_variables
        if grads:
            note(optimizer, list(trainable_variables))

    return tf.autograph.experimental.do_not_convert(apply)


def _noting_apply_gradients(note: Noted) -> Any:
    def apply_gradients(optimizer: Any, grads_and_vars: Any, **_: Any) -> None:
        note(optimizer, [variable for _, variable in grads_and_vars])

    return tf.autograph.experimental.do_not_convert(apply_gradients)

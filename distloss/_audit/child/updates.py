"""Which variables a function would update through optimizers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from distloss._audit.child.loop import different
from distloss._audit.child.patches import replaced, when_imported
from distloss._audit.child.recorder import family
from distloss._keras.private_names.of_audit import BASE_OPTIMIZER

# Told of an optimizer and what it updates; whether it shall not.
Noted = Callable[[Any, list[Any]], bool]


class Updates:
    """The updates of one call.

    Attributes:
      optimizers: that were asked for one.
      variables: that they were given.
    """

    def __init__(self) -> None:
        self.optimizers: list[Any] = []
        self.variables: list[Any] = []

    def note(self, optimizer: Any, variables: list[Any]) -> bool:
        """Notes one, of any replica, in its place."""
        self.optimizers = different([*self.optimizers, optimizer])
        self.variables = different([*self.variables, *variables])
        return True


@contextlib.contextmanager
def instead_of_updates(note: Noted) -> Iterator[None]:
    """In here `note` is called before, or instead of, an update by an optimizer."""
    with contextlib.ExitStack() as stack:
        for cls in family(BASE_OPTIMIZER.found()):
            if "apply" in vars(cls):
                stack.enter_context(replaced(cls, apply=_noting_apply(note, cls.apply)))

        def watch_tf_keras(tf_keras: Any) -> None:
            optimizers = tf_keras.optimizers
            for base in (optimizers.Optimizer, optimizers.legacy.Optimizer):
                for cls in family(base):
                    if "apply_gradients" in vars(cls):
                        new = _noting_apply_gradients(note, cls.apply_gradients)
                        stack.enter_context(replaced(cls, apply_gradients=new))

        stack.enter_context(when_imported("tf_keras", watch_tf_keras))
        yield


def _noting_apply(note: Noted, original: Any) -> Any:
    @functools.wraps(original)
    def apply(
        optimizer: Any, grads: Any, trainable_variables: Any = None, **more: Any
    ) -> Any:
        known = trainable_variables
        if known is None:
            known = getattr(optimizer, "_trainable_variables", [])
        if grads and note(optimizer, list(known)):
            return None
        return original(optimizer, grads, trainable_variables, **more)

    return tf.autograph.experimental.do_not_convert(apply)


def _noting_apply_gradients(note: Noted, original: Any) -> Any:
    @functools.wraps(original)
    def apply_gradients(
        optimizer: Any, grads_and_vars: Any, *args: Any, **more: Any
    ) -> Any:
        pairs = list(grads_and_vars)
        if note(optimizer, [variable for _, variable in pairs]):
            return None
        return original(optimizer, pairs, *args, **more)

    return tf.autograph.experimental.do_not_convert(apply_gradients)

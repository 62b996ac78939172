"""What comes to the update rules of optimizers, of either Keras."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.optimizer_state import indices_of, variables_of
from distloss._keras.private_names.of_others import CONTAINER
from distloss._keras.variables import in_tensorflow

# What gets an optimizer, a gradient and the variable that it is about to change.
Watcher = Callable[[Any, Any, Any], None]


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Calls `watcher(optimizer, gradient, variable)` before each update of a variable.

    On each replica, with the variable of that replica: unscaled, summed and clipped is
    what comes. Functions that are traced in here keep calling it.
    """
    inside = threading.local()
    before: list[tuple[Any, Any]] = []
    try:
        for cls in _classes_with_a_rule():
            rule = vars(cls)["update_step"]
            before.append((cls, rule))
            cls.update_step = _watched(rule, watcher, inside)
        yield
    finally:
        for cls, rule in before:
            cls.update_step = rule


def _classes_with_a_rule() -> list[Any]:
    bases = [keras.optimizers.Optimizer]
    legacy = sys.modules.get("tf_keras")
    if legacy is not None:
        bases.append(legacy.optimizers.Optimizer)
    every = {cls: None for base in bases for cls in _family(base)}
    return [cls for cls in every if "update_step" in vars(cls)]


def _family(cls: Any) -> Iterator[Any]:
    yield cls
    for child in cls.__subclasses__():
        yield from _family(child)


def _watched(rule: Any, watcher: Watcher, inside: Any) -> Any:
    @functools.wraps(rule)
    def update_step(
        optimizer: Any, gradient: Any, variable: Any, *args: Any, **kwargs: Any
    ) -> Any:
        is_outermost = not getattr(inside, "rule", False)  # one may call its parent's
        if is_outermost and gradient is not None:
            watcher(optimizer, gradient, variable)
        inside.rule = True
        try:
            return rule(optimizer, gradient, variable, *args, **kwargs)
        finally:
            inside.rule = not is_outermost

    return tf.autograph.experimental.do_not_convert(update_step)


def whole_of(variable: Any) -> Any:
    """The variable of all replicas of which `variable` is one replica's, or itself."""
    inner = in_tensorflow(variable)
    for part in (inner, getattr(inner, "handle", None)):  # which has it, differs
        container = getattr(part, CONTAINER.name, None)  # none of one device
        whole = container() if callable(container) else None
        if whole is not None:
            return whole
    return inner


def parts_of(variable: Any) -> list[Any]:
    """The variable of each replica of this process that `variable` belongs to."""
    whole = whole_of(variable)
    return list(getattr(whole, "values", None) or [whole])


def path_of(optimizer: Any, variable: Any) -> str:
    """Under which name Keras knows a variable that `optimizer` updates."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        # One that was not built for it does not know it.
        with contextlib.suppress(KeyError, IndexError, AttributeError):
            (index,) = indices_of(optimizer, [variable])
            return str(variables_of(optimizer)[index].path)
    return str(whole_of(variable).name).partition(":")[0]

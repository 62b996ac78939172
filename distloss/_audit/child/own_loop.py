"""A step that a script takes by itself, without a strategy: found by what is running.

Horovod has no `strategy.run` that is given the step as a function. There the step is
the innermost function of the user that is given rows, in which a tape is opened and an
optimizer is asked for an update. While functions run eagerly, both are on the stack.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import dataset_ops
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from distloss._audit.child.patches import replaced
from distloss._audit.child.places import Place, is_of_user, place_of
from distloss._keras.variables import is_of_keras


@dataclass(frozen=True)
class OwnStep:
    """A function that takes a training step, and what it was called with.

    Attributes:
      function: of the user, or the `tf.function` of it.
      args: positional arguments.
      kwargs: named arguments.
      used: what the function finds in its frame: `self`, and what it closes over.
      called_at: where the user's code calls it.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    used: tuple[Any, ...]
    called_at: Place | None


class OwnLoop:
    """Watches for what a step consists of.

    Attributes:
      data: the data sets of which batches were asked for.
    """

    def __init__(self) -> None:
        self.data: list[Any] = []
        self._opened: list[Any] = []  # the frames in which the last tape was opened

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """In here `step` knows where a tape was opened."""
        enter = tf.GradientTape.__enter__

        @functools.wraps(enter)
        def noting(tape: Any) -> Any:
            self._opened = frames_from(sys._getframe(1))
            return enter(tape)

        iterate = dataset_ops.DatasetV2.__iter__

        def noting_data(data: Any) -> Any:
            self.data.append(data)
            return iterate(data)

        with (
            replaced(tf.GradientTape, __enter__=noting),
            replaced(dataset_ops.DatasetV2, __iter__=noting_data),
            replaced(polymorphic_function.Function, __call__=_calling),
        ):
            try:
                yield
            finally:
                self._opened = []

    def step(self) -> OwnStep | None:
        """The function that takes the step which is running; None if there is none."""
        opened = {id(frame) for frame in self._opened}
        inner: Any = None  # a function of the user, who may call it by a tf.function
        for frame in frames_from(sys._getframe(1)):
            if id(frame) not in opened:
                continue
            if frame.f_code is _calling.__code__ and inner is not None:
                return _by_tf_function(frame, inner)
            if is_of_user(frame):
                if inner is not None:
                    break
                inner = frame if _is_given_rows(frame) else None
        return None if inner is None else _by_itself(inner)


_call = polymorphic_function.Function.__call__


def _calling(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a `tf.function`; what it was called with is found in this frame."""
    return _call(function, *args, **kwargs)


def frames_from(frame: Any) -> list[Any]:
    """A frame and all that called it."""
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def _is_given_rows(frame: Any) -> bool:
    """Whether a function was called with arrays; no module, and no comprehension."""
    if frame.f_code.co_name.startswith("<"):
        return False
    values = [frame.f_locals.get(name) for name in _parameters(frame.f_code)]
    return any(map(_has_rows, tf.nest.flatten(values)))


def _has_rows(value: Any) -> bool:
    is_variable = isinstance(value, tf.Variable) or is_of_keras(value)
    is_array = tf.is_tensor(value) or hasattr(value, "__array__")
    return is_array and not is_variable and bool(getattr(value, "shape", ()))


def _parameters(code: Any) -> tuple[str, ...]:
    """Their names: positional, named, `*args`, `**kwargs`."""
    stars = bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return tuple(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars])


def _by_tf_function(frame: Any, inner: Any) -> OwnStep:
    given = frame.f_locals
    return OwnStep(
        given["function"],
        tuple(given["args"]),
        dict(given["kwargs"]),
        _used_in(inner),
        _place_of_call(frame, inner.f_code.co_name),
    )


def _by_itself(frame: Any) -> OwnStep | None:
    """Made anew from its frame, which does not tell its function."""
    code = frame.f_code
    if _assigned(code) & set(_parameters(code)):
        return None  # what it was called with is not known any more
    found = frame.f_locals
    cells = tuple(
        types.CellType(found[name]) if name in found else types.CellType()
        for name in code.co_freevars
    )
    function = types.FunctionType(
        code, frame.f_globals, code.co_name, closure=cells or None
    )
    names = list(_parameters(code))
    named = names[code.co_argcount :][: code.co_kwonlyargcount]
    stars = names[code.co_argcount + code.co_kwonlyargcount :]
    args = tuple(found[name] for name in names[: code.co_argcount])
    kwargs = {name: found[name] for name in named}
    if code.co_flags & 4:
        args += tuple(found[stars.pop(0)])
    if stars:
        kwargs |= found[stars[0]]
    return OwnStep(
        function, args, kwargs, _used_in(frame), _place_of_call(frame, code.co_name)
    )


def _assigned(code: Any) -> set[str]:
    """The names that a function gives other values."""
    found: set[str] = set()
    for one in dis.get_instructions(code):
        if one.opname.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_")):
            # One instruction may store two names, from Python 3.13 on.
            names = one.argval if isinstance(one.argval, tuple) else (one.argval,)
            found.update(names)
    return found


def _used_in(frame: Any) -> tuple[Any, ...]:
    """Of a function: its arguments, what they hold, closures, globals."""
    code, known = frame.f_code, frame.f_locals
    names = [*_parameters(code), *code.co_freevars]
    values = tf.nest.flatten([known[name] for name in names if name in known])
    held = [one for value in values for one in getattr(value, "__dict__", {}).values()]
    return (*values, *held, *(frame.f_globals.get(name) for name in code.co_names))


def _place_of_call(frame: Any, name: str) -> Place | None:
    """The line of the user's code that called `name`, in this frame."""
    callers = (one for one in frames_from(frame.f_back) if is_of_user(one))
    return next((place_of(one, name) for one in callers), None)

"""The step of a prepared model, with no more rows at a time than memory holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distloss._errors import ArgumentError
from distloss._formula import empty
from distloss._keras.model_hooks import Hook
from distloss._prepare.steps import train_step
from distloss._prepare.steps_in_parts import train_step_in_parts


def step_in_fewer_rows(model: Any, rows: int) -> Callable[[Any], Any]:
    """The step of `model`, which takes a batch in parts of at most `rows` rows.

    Args:
      model: prepared.
      rows: how many at a time.

    Raises:
      ArgumentError: it is not prepared, or has a step of its own, so that nobody knows
        how the gradients of parts add up.
    """
    hook = vars(model).get("train_step")
    if not isinstance(hook, Hook) or hook.func not in (train_step, train_step_in_parts):
        raise ArgumentError(
            f"Expected rows= for a model of Keras 3 that distloss.prepare(model) took "
            f"with the step of Keras. Got rows={rows} and {type(model).__name__}, of "
            "whose step it is not known how parts of a batch add up. Leave out rows=."
        )
    replicas = hook.args[1]

    def step(data: Any) -> Any:
        parts = -(-int(empty.rows_of(data)) // rows)
        return train_step_in_parts(model, replicas, parts, data)

    return step

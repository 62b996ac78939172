"""The variables of a step, put back to what they were."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from distloss._errors import ContextError
from distloss._keras.update_rules import parts_of


class State:
    """Variables with the values that they have now.

    Args:
      variables: as graphs hold them, each on one replica; those of the others are
        taken along.

    Raises:
      ContextError: one has no value yet.
    """

    def __init__(self, variables: Iterable[tf.Variable]) -> None:
        local = [part for v in variables for part in parts_of(v)]
        every = {id(v): v for v in local if v.dtype != tf.resource}
        for variable in every.values():
            if not variable.is_initialized():
                raise ContextError(
                    "Expected a step whose variables are there before it runs. Got one "
                    f"that creates {variable.name!r} in its first call. Create it "
                    "before."
                )
        self._values = [(variable, variable.numpy()) for variable in every.values()]

    def restore(self) -> None:
        """Gives them these values again."""
        for variable, value in self._values:
            variable.assign(value)

"""The state from which each probe starts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._audit.child.recorder import components
from distloss._errors import AuditError


class State:
    """The variables of a step, with the values that they have now.

    Args:
      variables: of the step, as Keras or TensorFlow holds them.
      ours: the ids of those that are the audit's own, and are left alone.

    Raises:
      AuditError: one has no value yet.
    """

    def __init__(self, variables: Iterable[Any], ours: set[int]) -> None:
        every = {id(c): c for v in variables for c in components(v)}
        theirs = [
            component
            for key, component in every.items()
            if key not in ours and component.dtype != tf.resource
        ]
        for component in theirs:
            if not component.is_initialized():
                raise AuditError(
                    "Expected train_step to use variables that are there before it "
                    f"runs. Got one that creates {component.name!r} in its first call, "
                    "whose value is not known before. Create it in build()."
                )
        self._values = [(component, component.numpy()) for component in theirs]

    def restore(self, keep: Collection[int] = ()) -> None:
        """Gives variables these values again, but not those with an id in `keep`."""
        for component, value in self._values:
            if id(component) not in keep:
                component.assign(value)


def save_weights(variables: list[Any], path: str) -> None:
    """Writes weights for others, who must start from the same."""
    arrays = [components(v)[0].numpy() for v in variables]
    np.savez(path, **{str(i): array for i, array in enumerate(arrays)})


def digest_of(variables: list[Any]) -> str:
    """The same for variables that hold the same."""
    found = hashlib.sha256()
    for variable in variables:
        found.update(components(variable)[0].numpy().tobytes())
    return found.hexdigest()


def load_weights(variables: list[Any], path: str, replicas: int) -> None:
    """Takes the weights that another wrote.

    Raises:
      AuditError: they have other shapes.
    """
    with np.load(path) as file:
        arrays = [file[str(i)] for i in range(len(file.files))]
    shapes = [tuple(v.shape) for v in variables]
    if shapes != [a.shape for a in arrays]:
        raise AuditError(
            "Expected build() to make the same model whatever the number of replicas. "
            f"Got variables of shapes {[a.shape for a in arrays]} on one and {shapes} "
            f"on {replicas}."
        )
    for variable, array in zip(variables, arrays, strict=True):
        for component in components(variable):
            component.assign(array.astype(component.dtype.as_numpy_dtype))

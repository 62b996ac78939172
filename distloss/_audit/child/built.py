"""What build() returned, checked, and its batch, which several children share."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from distloss._audit.child.compiled import Compiled, compiled
from distloss._audit.child.contract import (
    checked_batch,
    checked_pair,
    leaves_of,
    rows_of,
    shapes_of,
    with_leaves,
)
from distloss._audit.child.determinism import seed
from distloss._audit.child.devices import Devices
from distloss._errors import AuditError


@dataclass(frozen=True)
class Built:
    """What build() returned.

    Attributes:
      model: a compiled model, or an object with a training step.
      batch: the global batch, a nest of arrays, as a step gets it.
      compiled: how a compiled model is run; None for an object of the user's.
    """

    model: Any
    batch: Any
    compiled: Compiled | None

    @property
    def is_keras(self) -> bool:
        """Whether it is a compiled model, of Keras 3 or of tf-keras."""
        return self.compiled is not None

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return rows_of(self.batch)


def built(build: Callable[[], Any], devices: Devices) -> Built:
    """Calls `build` in the strategy's scope, and checks what it returned.

    One that `has_scope` enters that itself.

    Raises:
      AuditError: it is not what was asked for.
    """
    seed()
    has_scope = getattr(build, "has_scope", False)
    with contextlib.nullcontext() if has_scope else devices.scope():
        returned = build()
    model, batch = checked_pair(returned)
    adapter = compiled(model)
    return Built(model, checked_batch(batch, devices.replicas, model), adapter)


def as_tensors(leaves: list[Any]) -> list[Any]:
    """Arrays as tensors; ragged and sparse ones are so already."""
    return [
        tf.convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
        for leaf in leaves
    ]


def save_batch(batch: Any, path: str) -> None:
    """Writes a batch for others, who must see the same."""
    arrays = tf.nest.flatten(leaves_of(batch), expand_composites=True)
    named: dict[str, Any] = {str(i): np.asarray(a) for i, a in enumerate(arrays)}
    np.savez(path, **named)


def loaded_batch(own: Any, path: str, replicas: int, same_shapes: bool = True) -> Any:
    """The batch that another wrote, in the place of `own`.

    Args:
      own: of this process.
      path: where it was written.
      replicas: of this process.
      same_shapes: whether the two must have the same shapes; else as many axes: a
        script may shuffle, pad, and take more rows for more replicas.

    Raises:
      AuditError: the two have other shapes.
    """
    mine = leaves_of(own)
    with np.load(path, allow_pickle=True) as file:  # texts
        arrays = [file[str(i)] for i in range(len(file.files))]
    shapes: Any = [array.shape for array in arrays]
    if len(arrays) == len(tf.nest.flatten(mine, expand_composites=True)):
        leaves = tf.nest.pack_sequence_as(mine, arrays, expand_composites=True)
        shapes = shapes_of(leaves)
    alike = shapes == shapes_of(mine)
    if not same_shapes:
        alike = list(map(len, shapes)) == list(map(len, shapes_of(mine)))
    if not alike:
        raise AuditError(
            "Expected build() to return batches of the same shapes each time. Got "
            f"{shapes} on one replica and {shapes_of(mine)} on {replicas}."
        )
    return with_leaves(own, leaves)


def digests(batch: Any) -> list[str]:
    """Of each row: the same for rows that hold the same."""
    leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(batch)]
    rows = zip(*leaves, strict=True)
    return [
        hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in row)).hexdigest()
        for row in rows
    ]

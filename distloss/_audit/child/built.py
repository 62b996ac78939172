"""What build() returned, checked, and its batch, which several children share."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
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

    One that `has_scope` enters that itself; one that `is_part` returns rows of this
    process only.

    Raises:
      AuditError: it is not what was asked for.
    """
    seed()
    has_scope = getattr(build, "has_scope", False)
    with contextlib.nullcontext() if has_scope else devices.scope():
        returned = build()
    model, batch = checked_pair(returned)
    adapter = compiled(model)
    rows = 1 if getattr(build, "is_part", False) else devices.replicas
    return Built(model, checked_batch(batch, rows, model), adapter)


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
    mine, arrays = leaves_of(own), _arrays(path)
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


def joined(own: Any, paths: Sequence[str]) -> Any:
    """The batch whose parts several processes wrote, as `save_batch` does.

    Raises:
      AuditError: the parts are no parts of one batch.
    """
    parts = [_arrays(path) for path in paths]
    kinds = {tuple((a.shape[1:], a.dtype.kind) for a in part) for part in parts}
    if len(kinds) > 1:
        shapes = [[array.shape for array in part] for part in parts]
        raise AuditError(
            "Expected processes to train on batches that differ in rows only. Got "
            f"arrays of shapes {shapes}. Write a function build() that returns "
            "(model, batch) with the rows of all processes, and audit that."
        )
    return with_leaves(own, [np.concatenate(same) for same in zip(*parts, strict=True)])


def _arrays(path: str) -> list[np.ndarray]:
    with np.load(path, allow_pickle=True) as file:  # texts
        return [file[str(i)] for i in range(len(file.files))]


def digests(batch: Any) -> list[str]:
    """Of each row: the same for rows that hold the same."""
    leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(batch)]
    rows = zip(*leaves, strict=True)
    return [
        hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in row)).hexdigest()
        for row in rows
    ]

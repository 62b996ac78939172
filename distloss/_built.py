"""What build() returned: is it what was asked for?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._errors import AuditError


def rows_of(batch: Any) -> int:
    """How many rows a batch has."""
    return int(tf.nest.flatten(batch)[0].shape[0])


def checked_pair(built: Any) -> tuple[Any, Any]:
    """Model and batch, as build returned them.

    Raises:
      AuditError: it returned something else.
    """
    wanted = "Expected build() to return (model, batch)."
    if not isinstance(built, tuple) or len(built) != 2:
        size = f" of {len(built)}" if isinstance(built, tuple) else ""
        raise AuditError(f"{wanted} Got {type(built).__name__}{size}: {_short(built)}.")
    model, batch = built
    for name in ("train_step", "trainable_variables"):
        if not hasattr(model, name):
            raise AuditError(
                f"{wanted} The model must be a compiled Keras model or an object with "
                f"trainable_variables and train_step(batch). Got {_short(model)} of "
                f"type {type(model).__name__}, which has no {name}."
            )
    return model, batch


def checked_batch(batch: Any, replicas: int) -> Any:
    """The batch as a nest of arrays that have the same rows.

    Raises:
      AuditError: it is something else, or has fewer rows than there are replicas.
    """
    wanted = "Expected the batch to be (x, y) or (x, y, sample_weight) in NumPy."
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise AuditError(f"{wanted} Got {type(batch).__name__}: {_short(batch)}.")
    batch = tuple(batch)
    if len(batch) == 3 and batch[2] is None:
        batch = batch[:2]
    try:
        batch = tf.nest.map_structure(np.asarray, batch)
    except (ValueError, TypeError) as error:
        raise AuditError(f"{wanted} Got what is no array: {error}.") from error
    leaves = tf.nest.flatten(batch)
    shapes = [leaf.shape for leaf in leaves]
    if any(leaf.dtype.kind == "O" or leaf.ndim == 0 for leaf in leaves):
        raise AuditError(f"{wanted} Got arrays of shapes {shapes}, one without rows.")
    rows = {shape[0] for shape in shapes}
    if len(rows) != 1:
        raise AuditError(f"{wanted} Got arrays that differ in rows: {shapes}.")
    if min(rows) < replicas:
        raise AuditError(
            f"Expected a batch with at least one row for each of {replicas} replicas. "
            f"Got {min(rows)} rows. Return a larger batch, or ask for fewer replicas."
        )
    return tf.nest.map_structure(
        lambda leaf: (
            leaf.astype(keras.config.floatx())
            if leaf.dtype == np.float64 and keras.config.floatx() == "float32"
            else leaf
        ),
        batch,
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."

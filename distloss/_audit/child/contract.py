"""What build() returned: is it what was asked for?"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._errors import AuditError
from distloss._keras import tf_keras
from distloss._keras.private_names.of_audit import GET_DATA_ADAPTER

_WANTED = (
    "Expected the batch to be (x, y) or another nest of arrays with the same rows, or "
    "a data set of such batches."
)
_BATCHED = "(A data set must be batched.)"


# -- a batch is a nest whose leaves have rows; a leaf may be missing (None)


def leaves_of(batch: Any) -> list[Any]:
    """The arrays, ragged and sparse tensors of a batch."""
    return [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]


def with_leaves(batch: Any, leaves: Iterable[Any]) -> Any:
    """A batch of the same nest with other leaves."""
    left = iter(leaves)
    flat = [leaf if leaf is None else next(left) for leaf in tf.nest.flatten(batch)]
    return tf.nest.pack_sequence_as(batch, flat)


def rows_of(batch: Any) -> int:
    """How many rows a batch has."""
    return int(leaves_of(batch)[0].shape[0])


def rows_between(leaf: Any, start: Any, stop: Any) -> Any:
    """Some rows of a tensor, ragged or sparse ones too."""
    if not isinstance(leaf, tf.SparseTensor):
        return leaf[start:stop]
    others = tf.cast(leaf.dense_shape[1:], tf.int64)
    ends = [tf.cast(x, tf.int64)[tf.newaxis] for x in (start, stop - start)]
    starts = tf.concat([ends[0], tf.zeros_like(others)], 0)
    found = tf.sparse.slice(leaf, starts, tf.concat([ends[1], others], 0))
    rest = leaf.shape[1:]  # which a slice forgets
    indices = tf.ensure_shape(found.indices, [None, 1 + len(rest)])
    shape = tf.concat([ends[1], tf.constant(rest.as_list(), tf.int64)], 0)
    return tf.SparseTensor(indices, found.values, shape)


def in_order(leaf: Any, order: Sequence[int]) -> Any:
    """The rows of a leaf in another order."""
    if isinstance(leaf, tf.SparseTensor):
        return tf.sparse.concat(0, [rows_between(leaf, i, i + 1) for i in order])
    return tf.gather(leaf, order) if tf.is_tensor(leaf) else leaf[np.asarray(order)]


def shapes_of(batch: Any) -> list[tuple[int | None, ...]]:
    """Of each leaf; None where rows differ."""
    return [tuple(tf.TensorShape(leaf.shape).as_list()) for leaf in leaves_of(batch)]


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


def checked_batch(batch: Any, replicas: int, model: Any = None) -> Any:
    """The batch as its step gets it, a nest of arrays that have the same rows.

    Args:
      batch: what build returned.
      replicas: that it must have rows for.
      model: a compiled model, whose `fit` says what a step gets; or a loop, which gets
        what build returned.

    Raises:
      AuditError: it is something else, or has fewer rows than there are replicas.
    """
    if not leaves_of(batch):
        raise AuditError(f"{_WANTED} Got nothing but None.")
    if isinstance(model, keras.Model):
        batch = _as_fit_hands_it(with_leaves(batch, map(_text, leaves_of(batch))))
    else:
        batch = first_of(batch)
        if tf_keras.is_model(model):
            x_y_weight = keras.utils.unpack_x_y_sample_weight(batch)
            batch = keras.utils.pack_x_y_sample_weight(*x_y_weight)
    batch = with_leaves(batch, [_as_leaf(leaf) for leaf in leaves_of(batch)])
    _check_rows(batch, replicas)
    if isinstance(model, keras.Model) or _is_float64(model):
        return batch
    return with_leaves(batch, [_as_floatx(leaf) for leaf in leaves_of(batch)])


def _as_fit_hands_it(batch: Any) -> Any:
    """By Keras' own adapter: packed, cast, with weights for each output."""
    x, y, weight = batch, None, None
    if isinstance(batch, (tuple, list)):
        if not 1 <= len(batch) <= 3:
            return (
                batch  # no (x, y, weight): a data set may hold such nests, arrays not
            )
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
    arrays = [leaf for leaf in leaves_of(batch) if _has_rows(leaf)]
    _check_same_rows(arrays)
    rows = [leaf.shape[0] for leaf in arrays]
    with _told_by_us():
        adapter = GET_DATA_ADAPTER.found()(
            x, y, weight, batch_size=max(rows, default=None)
        )
        found = first_of(adapter.get_tf_dataset())
    return without_optionals(found)


def without_optionals(found: Any) -> Any:
    """What a data set gave, with None where it holds an optional without a value."""
    flat = tf.nest.flatten(found)
    missing = tf.experimental.Optional  # a data set holds None as one of these
    flat = [None if isinstance(leaf, missing) else leaf for leaf in flat]
    return tf.nest.pack_sequence_as(found, flat)


def _text(leaf: Any) -> Any:
    """Texts as tensors: `fit` takes no NumPy arrays of them."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "US":
        return tf.convert_to_tensor(leaf)
    return leaf


def _has_rows(leaf: Any) -> bool:
    return bool(getattr(leaf, "shape", ()))


@contextlib.contextmanager
def _told_by_us() -> Iterator[None]:
    """What Keras says of a batch that `fit` does not take, as an AuditError."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise AuditError(
            f"{_WANTED} Got what fit refuses: {_short(told[0])}"
        ) from error


def first_of(batch: Any) -> Any:
    """The first batch of a data set; anything else as it is."""
    if is_sequence(batch):
        return batch[0]
    if not isinstance(batch, (tf.data.Dataset, Iterator)):
        return batch
    try:
        return next(iter(batch))
    except StopIteration:
        raise AuditError(f"{_WANTED} Got a data set without a batch.") from None


def is_sequence(data: Any) -> bool:
    """Whether its batches are had by their number, in Keras 3 or tf-keras."""
    utils = getattr(sys.modules.get("tf_keras"), "utils", None)
    return isinstance(data, (keras.utils.PyDataset, getattr(utils, "Sequence", ())))


def _as_leaf(leaf: Any) -> Any:
    """An array; or a ragged or sparse tensor."""
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return leaf
    try:
        array = leaf.numpy() if tf.is_tensor(leaf) else np.asarray(leaf)
        if array.dtype.kind in "OUS":  # texts, which TensorFlow holds as bytes
            array = np.asarray(tf.convert_to_tensor(array).numpy())
    except (ValueError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise AuditError(f"{_WANTED} Got something without rows: {why}.") from error
    return array


def _check_rows(batch: Any, replicas: int) -> None:
    shapes = shapes_of(batch)
    if any(not shape for shape in shapes):
        raise AuditError(
            f"{_WANTED} Got arrays of shapes {shapes}, one without rows. {_BATCHED}"
        )
    _check_same_rows(leaves_of(batch))
    rows = rows_of(batch)
    if rows < replicas:
        raise AuditError(
            f"Expected a batch with at least one row for each of {replicas} replicas. "
            f"Got {rows} rows. Return a larger batch, or ask for fewer replicas."
        )


def _check_same_rows(leaves: list[Any]) -> None:
    shapes = shapes_of(leaves)
    if len({shape[0] for shape in shapes}) > 1:
        raise AuditError(
            f"{_WANTED} Got arrays that differ in rows: {shapes}. {_BATCHED}"
        )


def _is_float64(loop: Any) -> bool:
    """Whether a loop of one's own computes in float64, whatever Keras' floatx is."""
    dtypes = [tf.as_dtype(v.dtype) for v in getattr(loop, "trainable_variables", ())]
    return tf.float64 in dtypes


def _as_floatx(leaf: Any) -> Any:
    floatx = keras.config.floatx()
    is_double = isinstance(leaf, np.ndarray) and leaf.dtype == np.float64
    return leaf.astype(floatx) if is_double and floatx == "float32" else leaf


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."

"""The first global batch of what a script gives to `fit`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from distloss._audit.child.contract import (
    first_of,
    leaves_of,
    rows_between,
    rows_of,
    with_leaves,
    without_optionals,
)
from distloss._audit.child.epoch import rows_and_count_of
from distloss._audit.child.full_batches import rows_and_count
from distloss._audit.child.loop import together
from distloss._keras.private_names.of_audit import (
    CAN_CONVERT_ARRAYS,
    GET_DATA_ADAPTER,
    VALIDATION_SPLIT,
)

BATCH_SIZE = 32  # that of `fit` for arrays
MOST_ROWS = 1024  # more make a step no more telling

_VALIDATION = (
    "validation",
    "what fit evaluates after an epoch is no training step, and is not audited",
)
_READ = (
    "batches of later epochs",
    "taken to have as many rows as those of the first, which were read",
)

Given = dict[str, Any]  # the arguments of a method, by name


@dataclass(frozen=True)
class Batch:
    """A global batch.

    Attributes:
      rows: the batch.
      size: rows of each batch, but for a last short one; 0 if that is not known.
      count: rows of all batches of an epoch; -1 if batches are never short.
      dealt: for each replica, its part, where the script dealt out its data.
      notes: pairs of what is not audited, or only taken to be so, and why.
    """

    rows: Any
    size: int = 0
    count: int = 0
    dealt: tuple[Any, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether all batches have as many rows, as far as is known."""
        return bool(self.size) and (self.count < 0 or not self.count % self.size)

    def of(self, size: int, count: int) -> Batch:
        """The same of a data set with such batches, if this is one of them."""
        leaves = leaves_of(self.rows)
        has_rows = all(getattr(leaf, "shape", ()) for leaf in leaves)
        is_one = has_rows and rows_of(self.rows) == size
        return dataclasses.replace(self, size=size, count=count) if is_one else self

    def cut(self, most: int | None, processes: int = 1) -> tuple[Any, str]:
        """At most so many rows of it, and a note on that.

        Args:
          most: rows of the batch of all processes; None for what makes a step quick.
          processes: of which each has such a batch.
        """
        leaves = leaves_of(self.rows)
        if any(not getattr(leaf, "shape", ()) for leaf in leaves):
            return self.rows, ""  # which is refused later, in words about that
        most, rows = max(1, (most or MOST_ROWS) // processes), rows_of(self.rows)
        if rows is None or rows <= most:
            return self.rows, ""
        cut = with_leaves(self.rows, [rows_between(leaf, 0, most) for leaf in leaves])
        return cut, f"the first {most} of the {rows} rows of the batch: see --rows"


def as_it_is(rows: Any) -> Any:
    """A batch that `fit` would hand to a step, so that it is not changed again."""
    return tf.data.Dataset.from_tensors(rows)


def of_fit(given: Given) -> Batch:
    """The first batch that `fit` would make of its arguments."""
    batch = _of_data_of(given)
    if given["validation_data"] is None and not given["validation_split"]:
        return batch
    return dataclasses.replace(batch, notes=(*batch.notes, _VALIDATION))


def _of_data_of(given: Given) -> Batch:
    x, y, weight = given["x"], given["y"], given["sample_weight"]
    if not CAN_CONVERT_ARRAYS.found()((x, y, weight)):
        return _of_data(x, given)
    if given["validation_split"]:
        (x, y, weight), _ = VALIDATION_SPLIT.found()(
            (x, y, weight), validation_split=given["validation_split"]
        )
    rows = len(tf.nest.flatten(x)[0])
    size = min(given["batch_size"] or BATCH_SIZE, rows)
    batch = _adapted(x, y, weight, batch_size=size, class_weight=given["class_weight"])
    return Batch(batch, size, rows)


def _of_data(data: Any, given: Given) -> Batch:
    """The first batch of what gives batches."""
    if isinstance(data, tf.distribute.DistributedDataset):
        return _of_dealt(data, given)
    first, known = first_of(data), rows_and_count(data)
    if known[0]:
        return Batch(_weighted(first, given)).of(*known)
    known = rows_and_count_of(data, first, given["steps_per_epoch"])
    notes = (_READ,) if known[0] else ()
    return Batch(_weighted(first, given), notes=notes).of(*known)


def _of_dealt(data: Any, given: Given) -> Batch:
    """The first batch of a data set that a strategy has dealt out."""
    first = next(iter(data))
    every = [
        tuple(getattr(leaf, "values", None) or [leaf])
        for leaf in tf.nest.flatten(first)
    ]
    rows = tf.nest.pack_sequence_as(first, [together(parts) for parts in every])
    return Batch(_weighted(rows, given), dealt=tuple(zip(*every, strict=True)))


def of_train_on_batch(given: Given) -> Batch:
    """The batch that `train_on_batch` is given."""
    x, y, weight = given["x"], given["y"], given["sample_weight"]
    rows = len(tf.nest.flatten(x)[0])
    about = {"batch_size": rows, "class_weight": given["class_weight"]}
    return Batch(_adapted(x, y, weight, **about))


def _weighted(batch: Any, given: Given) -> Any:
    """A batch of a data set, with the weights of its classes."""
    if not given["class_weight"]:
        return batch
    one = tf.data.Dataset.from_tensors(batch)
    adapter = GET_DATA_ADAPTER.found()(one, class_weight=given["class_weight"])
    return first_of(adapter.get_tf_dataset())


def _adapted(x: Any, y: Any, weight: Any, **about: Any) -> Any:
    """The first batch of arrays, by Keras' own adapter."""
    adapter = GET_DATA_ADAPTER.found()(x, y, weight, **about)
    return without_optionals(first_of(adapter.get_tf_dataset()))

"""The first global batch of what a script gives to `fit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from keras.src.trainers.data_adapters import (
    array_data_adapter,
    array_slicing,
    get_data_adapter,
)

from distloss._audit.child.contract import (
    first_of,
    leaves_of,
    rows_between,
    rows_of,
    with_leaves,
    without_optionals,
)
from distloss._audit.child.full_batches import rows_of_all

BATCH_SIZE = 32  # that of `fit` for arrays
MOST_ROWS = 1024  # more make a step no more telling

Given = dict[str, Any]  # the arguments of a method, by name


@dataclass(frozen=True)
class Batch:
    """A global batch.

    Attributes:
      rows: the batch.
      is_full: whether all batches have as many rows, as far as is known.
    """

    rows: Any
    is_full: bool = False

    def full(self, rows: int) -> Batch:
        """The same of a data set whose batches all have `rows`, if this one has."""
        leaves = leaves_of(self.rows)
        has_rows = all(getattr(leaf, "shape", ()) for leaf in leaves)
        return Batch(self.rows, has_rows and rows_of(self.rows) == rows)

    def cut(self, most: int | None) -> tuple[Any, str]:
        """At most so many rows of it, and a note on that."""
        leaves = leaves_of(self.rows)
        if any(not getattr(leaf, "shape", ()) for leaf in leaves):
            return self.rows, ""  # which is refused later, in words about that
        most, rows = most or MOST_ROWS, rows_of(self.rows)
        if rows is None or rows <= most:
            return self.rows, ""
        cut = with_leaves(self.rows, [rows_between(leaf, 0, most) for leaf in leaves])
        return cut, f"the first {most} of the {rows} rows of the batch: see --rows"


def as_it_is(rows: Any) -> Any:
    """A batch that `fit` would hand to a step, so that it is not changed again."""
    return tf.data.Dataset.from_tensors(rows)


def of_fit(given: Given) -> Batch:
    """The first batch that `fit` would make of its arguments."""
    x, y, weight = given["x"], given["y"], given["sample_weight"]
    if not array_data_adapter.can_convert_arrays((x, y, weight)):
        batch = Batch(_weighted(first_of(x), given))
        return batch.full(rows_of_all(x))
    if given["validation_split"]:
        (x, y, weight), _ = array_slicing.train_validation_split(
            (x, y, weight), validation_split=given["validation_split"]
        )
    size = given["batch_size"] or BATCH_SIZE
    rows = len(tf.nest.flatten(x)[0])
    batch = _adapted(x, y, weight, batch_size=size, class_weight=given["class_weight"])
    return Batch(batch, rows % min(size, rows) == 0)


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
    adapter = get_data_adapter(one, class_weight=given["class_weight"])
    return first_of(adapter.get_tf_dataset())


def _adapted(x: Any, y: Any, weight: Any, **about: Any) -> Any:
    """The first batch of arrays, by Keras' own adapter."""
    adapter = get_data_adapter(x, y, weight, **about)
    return without_optionals(first_of(adapter.get_tf_dataset()))

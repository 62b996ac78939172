"""The first global batch of what a script gives to `fit`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.trainers.data_adapters import (
    array_data_adapter,
    array_slicing,
    get_data_adapter,
)

from distloss._audit.child.contract import first_of, without_optionals

BATCH_SIZE = 32  # that of `fit` for arrays

Given = dict[str, Any]  # the arguments of a method, by name


def of_fit(given: Given) -> Any:
    """The first batch that `fit` would make of its arguments."""
    x, y, weight = given["x"], given["y"], given["sample_weight"]
    if not array_data_adapter.can_convert_arrays((x, y, weight)):
        return _weighted(first_of(x), given)
    if given["validation_split"]:
        (x, y, weight), _ = array_slicing.train_validation_split(
            (x, y, weight), validation_split=given["validation_split"]
        )
    size = given["batch_size"] or BATCH_SIZE
    return _adapted(x, y, weight, batch_size=size, class_weight=given["class_weight"])


def of_train_on_batch(given: Given) -> Any:
    """The batch that `train_on_batch` is given."""
    x, y, weight = given["x"], given["y"], given["sample_weight"]
    rows = len(tf.nest.flatten(x)[0])
    return _adapted(x, y, weight, batch_size=rows, class_weight=given["class_weight"])


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

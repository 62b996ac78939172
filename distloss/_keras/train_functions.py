"""The function that `fit` calls for each batch, of either Keras."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from distloss._keras.private_names.of_others import SPEC_CLASS, VALUE_SPECS

_MISSING = object()
# tf-keras keeps the second for its coordinator of workers.
_NAMES = ("train_function", "train_tf_function")


def fresh_train_function(model: Any) -> Callable[[Any], Any]:
    """A function like `model.train_function` that was not traced yet.

    It takes an iterator over batches and makes one step. The model keeps the one that
    it has.
    """
    with _kept(model):
        model.make_train_function(force=True)
        fresh: Callable[[Any], Any] = model.train_function
    return fresh


@contextlib.contextmanager
def _kept(model: Any) -> Iterator[None]:
    before = {name: vars(model).get(name, _MISSING) for name in _NAMES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not _MISSING:
                setattr(model, name, value)


def put_train_function(model: Any, function: Callable[[Any], Any]) -> None:
    """Lets `fit` call `function` from the next batch on."""
    model.train_function = function


def steps_per_call(model: Any) -> int:
    """How many steps `fit` makes by one call of its function."""
    steps = model.steps_per_execution
    return int(steps.numpy()) if isinstance(steps, tf.Variable) else int(steps or 1)


def as_steps_get_it(batch: Any) -> Any:
    """A batch as Keras gives it to steps: None for what is not there."""

    def converted(leaf: Any) -> Any:
        return None if _is_optional(leaf) else leaf

    return keras.tree.map_structure(converted, batch)


def _is_optional(leaf: Any) -> bool:
    is_of_replicas = isinstance(leaf, tf.distribute.DistributedValues)
    first = leaf.values[0] if is_of_replicas else leaf
    return isinstance(first, tf.experimental.Optional)


def per_replica_specs(spec: Any) -> Any:
    """The specifications of what each replica gets; None where one is for all."""
    is_of_replicas = isinstance(spec, SPEC_CLASS.found())
    return VALUE_SPECS.of(spec) if is_of_replicas else None


def iterator_over(batch: Any, like: Any, strategy: tf.distribute.Strategy) -> Any:
    """An iterator over this one batch, which functions take as they take another one.

    Args:
      batch: that the other one gave.
      like: the other one, whose batches may have other numbers of rows.
      strategy: of the replicas to which both deal.
    """
    if any(_is_optional(leaf) for leaf in tf.nest.flatten(batch)):
        return iter([batch])  # which no data set holds
    local = strategy.experimental_local_results
    leaves = [local(leaf) for leaf in tf.nest.flatten(batch)]
    count = max(map(len, leaves))
    parts = [
        tf.nest.pack_sequence_as(batch, [leaf[i % len(leaf)] for leaf in leaves])
        for i in range(count)
    ]
    data = tf.data.Dataset.from_tensors(parts[0])
    for part in parts[1:]:
        data = data.concatenate(tf.data.Dataset.from_tensors(part))
    specs = tf.nest.map_structure(
        lambda one: (per_replica_specs(one) or [one])[0], like.element_spec
    )

    def as_known(*leaves: Any) -> Any:
        nest = leaves if isinstance(specs, tuple) else leaves[0]
        return tf.nest.map_structure(_with_shape_of, specs, nest)

    options = tf.data.Options()
    options.autotune.enabled = False  # an iterator would wait for its thread to end
    data = data.map(as_known).with_options(options)
    return iter(strategy.distribute_datasets_from_function(lambda _context: data))


def _with_shape_of(spec: Any, leaf: Any) -> Any:
    """`leaf`, of which no more of its shape is known than `spec` says."""
    if not isinstance(spec, tf.TensorSpec):
        return leaf
    return tf.compat.v1.placeholder_with_default(leaf, spec.shape)

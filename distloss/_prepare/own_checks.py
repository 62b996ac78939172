"""What `prepare` refuses of models with steps of their own, of either Keras."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError, ContextError
from distloss._formula import empty
from distloss._formula.row_weights import row_weighted_context
from distloss._keras.compiled_model import layers_of
from distloss._keras.model_hooks import Hook
from distloss._prepare.found import is_distributed


def is_own(model: Any, name: str, base: Any, take_step: Any) -> bool:
    """Whether the method `name` of `model` is not that of `base`, its Keras' Model.

    Also where `take_step` of ours was put in its place.
    """
    given = vars(model).get(name)
    if isinstance(given, Hook):
        return given.func is take_step
    is_inherited = getattr(type(model), name, None) is getattr(base, name, None)
    return given is not None or not is_inherited


def refuse_other_optimizers(optimizer: Any, name: str) -> None:
    """Raises ContextError where one that is not ours updates in a weighed step."""
    if row_weighted_context() is not None and not is_distributed(optimizer):
        raise ContextError(
            "Expected steps of a prepared model to update with the optimizers that "
            "distloss.prepare found, in attributes of the model and its layers, and in "
            f"their lists and dicts. Got an update by {name}, which sums gradients of "
            "replicas unweighed: the model was compiled again, or keeps it elsewhere. "
            "Call distloss.prepare(model) after model.compile(...), or wrap it: "
            "distloss.DistributedOptimizer(optimizer)."
        )


def refuse_parts(model: Any, parts: int) -> None:
    """Raises ArgumentError where batches were to be cut."""
    if parts > 1:
        raise ArgumentError(
            "Expected microbatches=1 for a model with a step of its own, which takes "
            f"its batch whole. Got microbatches={parts} and model {model.name!r} of "
            f"{type(model).__name__}. Cut the batch in its train_step and add up "
            "gradients, each times its rows, before one update; or let Keras' "
            "train_step compute the loss."
        )


def check_found(model: Any, optimizers: list[Any]) -> None:
    """Raises ArgumentError where no optimizer was found."""
    if not optimizers:
        raise ArgumentError(
            "Expected a model with an optimizer. Got model "
            f"{model.name!r} of {type(model).__name__} with none in the attributes of "
            "the model and of its layers, nor in lists, tuples or dicts there. Compile "
            "it, or set model.optimizer, before distloss.prepare(model)."
        )


def check_own_layers(model: Any) -> None:
    """Raises ArgumentError where a gradient is not that of a replica's own loss."""
    count = model.distribute_strategy.num_replicas_in_sync
    if count == 1:
        return
    for layer in layers_of(model):
        if getattr(layer, "synchronized", False):
            raise ArgumentError(
                "Expected layers that compute without other replicas, in a model with "
                "a step of its own, whose gradients are weighed by rows. Got layer "
                f"{layer.name!r} with synchronized=True on {count} replicas, through "
                "which gradients of their losses come. Use synchronized=False, or "
                "Keras' train_step."
            )


def checked_rows(data: Any) -> tf.Tensor | int:
    """The rows of a batch, in which all leaves must have the same number of them."""
    leaves = [leaf for leaf in tf.nest.flatten(data) if empty.has_rows(leaf)]
    if not leaves:
        raise ArgumentError(
            "Expected batches with rows along axis 0, by which replicas weigh. Got "
            f"{data!r}, in which nothing has an axis. Give the data set a batch(...)."
        )
    known = {leaf.shape[0] for leaf in leaves} - {None}
    if len(known) > 1:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ArgumentError(
            "Expected the same number of rows in all parts of a batch, by which "
            f"replicas weigh. Got shapes {shapes}. Keep what is not of rows outside of "
            "the data set, or repeat it for each row."
        )
    rows = empty.rows_of(data)
    others = [empty.length_of(leaf) for leaf in leaves if leaf.shape[0] is None]
    if len(others) < 2:
        return rows
    are_same = tf.debugging.assert_equal(
        tf.stack(others),
        rows,
        "Expected the same number of rows in all parts of a batch, by which replicas "
        "weigh. Got parts of other lengths on this replica.",
    )
    with tf.control_dependencies([] if are_same is None else [are_same]):
        return tf.identity(rows)

"""From what the tensors of a step are computed, in the graph in which it is traced."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import tensorflow as tf


def sources_of(inputs: Any) -> set[Any]:
    """The operations that give `inputs`, a nest of tensors."""
    flat = tf.nest.flatten(inputs, expand_composites=True)
    return {x.op for x in flat if tf.is_tensor(x)}


def operations_above(
    operations: Iterable[Any], sources: set[Any], stop: Collection[str] = ()
) -> Iterator[Any]:
    """`operations`, and all from which they are computed, each once.

    Up to `sources`, which come too, and to operations of the types in `stop`.
    """
    seen: set[Any] = set()
    ahead = list(operations)
    while ahead:
        operation = ahead.pop()
        if operation in seen:
            continue
        seen.add(operation)
        yield operation
        if operation not in sources and operation.type not in stop:
            ahead += [x.op for x in operation.inputs]


def comes_from(tensor: Any, inputs: Any) -> bool:
    """Whether `tensor` was computed from one of `inputs`; eager ones do not tell."""
    if tf.executing_eagerly():
        return True
    sources = sources_of(inputs)
    return any(x in sources for x in operations_above([tensor.op], sources))

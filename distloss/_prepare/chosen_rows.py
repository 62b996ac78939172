"""Whether a loss has as many values for each row, on whatever replica the row is.

Its mean over local values weighs by rows then. Else its values must be counted: some
rows were left out, or have more values than others.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distloss._formula import empty
from distloss._formula.row_weights import RowWeightedContext
from distloss._prepare.graphs import operations_above, sources_of

# The length of what these return is decided by values.
_CHOOSE = {
    "Where", "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2",
    "DynamicPartition", "DynamicStitch", "ParallelDynamicStitch", "ListDiff",
    "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5",
    "RaggedGather", "RaggedRange", "RaggedTensorFromVariant", "StringSplit",
    "StringSplitV2", "SparseSlice", "SparseReshape", "SparseConcat", "Unbatch",
    # These hold a graph of their own, which is not looked into.
    "If", "StatelessIf", "While", "StatelessWhile", "PartitionedCall",
    "StatefulPartitionedCall", "PyFunc", "EagerPyFunc",
}  # fmt: skip

# And of these by their inputs from this one on, unless they are shapes.
_SIZED_FROM = {
    "StridedSlice": 1, "Slice": 1, "Fill": 0, "BroadcastTo": 1, "Tile": 1, "Range": 0,
    "TopKV2": 1, "Pad": 1, "PadV2": 1, "MirrorPad": 1, "LinSpace": 0, "OneHot": 1,
}  # fmt: skip
_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}


def counts_like_rows(values: tf.Tensor, step: RowWeightedContext) -> bool:
    """Whether `values` has as many elements for each row of `step`, on all replicas.

    False where that cannot be told, as in eager mode.
    """
    leaves = [x for x in step.inputs if empty.has_rows(x)]
    # Rows of open length, as of tokens, may be longer on one replica than on another.
    shapes = [x.shape[1:] for x in (values, *leaves)]
    if tf.executing_eagerly() or not all(x.is_fully_defined() for x in shapes):
        return False
    if any(isinstance(x, tf.SparseTensor) for x in leaves):
        return False  # of which rows have as many values as they like
    if values.shape[0] is not None:
        return step.static_rows is not None
    sources = sources_of(step.inputs)
    return not any(
        _chooses(operation, sources)
        for operation in operations_above([values.op], sources)
        if operation not in sources
    )


def _chooses(operation: Any, sources: set[Any]) -> bool:
    if operation.type in _CHOOSE:
        return True
    first = _SIZED_FROM.get(operation.type)
    if first is None:
        return False
    deciding = [x.op for x in operation.inputs[first:]]
    return any(x in sources for x in operations_above(deciding, sources, _SHAPES))

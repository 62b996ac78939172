"""What a comparison of 1 with N replicas cannot see: looked for on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf


class Calls:
    """Suspicious calls and divisions in a step, found while it is traced.

    Attributes:
      rows: of the batch.
      constants: whole numbers by which the loss divides a sum over rows.
      batch_sizes: constants that the step calls the global batch size.
    """

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._weights: set[str] = set()
        self.rows = 0
        self.constants: set[int] = set()
        self.batch_sizes: set[int] = set()

    def patch(self) -> None:
        """Watches `tf.nn.compute_average_loss`."""
        original = tf.nn.compute_average_loss

        def compute_average_loss(
            per_example_loss: Any,
            sample_weight: Any = None,
            global_batch_size: Any = None,
        ) -> Any:
            self._look_at_call(per_example_loss, sample_weight, global_batch_size)
            return original(per_example_loss, sample_weight, global_batch_size)

        tf.nn.compute_average_loss = tf.autograph.experimental.do_not_convert(
            compute_average_loss
        )

    def findings(self) -> dict[str, str]:
        """Cause slug -> evidence."""
        return dict(self._found)

    def _look_at_call(self, losses: Any, weight: Any, size: Any) -> None:
        shape = tf.convert_to_tensor(losses).shape
        constant = None if size is None else tf.get_static_value(size)
        if constant is not None:
            self.batch_sizes.add(int(constant))
        if shape.rank is not None and shape.rank > 1:
            self._found["elements-divided-by-rows"] = (
                f"tf.nn.compute_average_loss got losses of shape {shape}: it adds up "
                "all axes and divides by rows only"
            )
        sizes = {self.rows} if constant is None else {self.rows, int(constant)}
        if weight is not None and _is_size(tf.convert_to_tensor(weight), sizes):
            self._found["batch-size-as-weight"] = (
                f"tf.nn.compute_average_loss got one number, {_shown(weight)}, as "
                "sample_weight, its second argument"
            )

    def look_at(self, graph: Any, batch: Any, targets: Sequence[Any]) -> None:
        """Looks through a traced step, of which gradients of `targets` are taken."""
        self._weights = _weight_names(batch)
        for operation in graph.get_operations():
            if operation.type == "Mean":
                self._look_at_mean(operation)
        for operation in _linear_before(targets):
            if operation.type in ("RealDiv", "DivNoNan"):
                self._look_at_division(operation)

    def _look_at_mean(self, mean: Any) -> None:
        product = _source_of(mean.inputs[0].op, {"Cast", "Identity"})
        if product.type != "Mul":
            return
        names = [_source(tensor.op) for tensor in product.inputs]
        if any(name in self._weights for name in names):
            self._found["weights-divided-by-rows"] = (
                f"reduce_mean(loss * sample_weight) ({mean.name}) divides by the "
                "number of rows, not by the sum of weights"
            )

    def _look_at_division(self, division: Any) -> None:
        numerator, denominator = division.inputs
        value = tf.get_static_value(denominator)
        if value is None or value.ndim or not _is_of_rows(numerator):
            return
        if float(value) > 1 and float(value).is_integer():
            self.constants.add(int(value))


# Operations that are linear in their first input, or in all of them: a loss is a sum
# of terms, each scaled by what comes after it.
_LINEAR = {"AddV2", "Add", "AddN", "Sub", "Neg", "Sum", "Mul", "RealDiv", "DivNoNan"}
_LINEAR |= {"Cast", "Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient"}


def _linear_before(tensors: Sequence[Any]) -> Iterator[Any]:
    """The operations of which `tensors` are linear, each once."""
    left = [tensor.op for tensor in tensors if hasattr(tensor, "graph")]
    known: set[int] = set()
    while left:
        operation = left.pop()
        if id(operation) in known or operation.type not in _LINEAR:
            continue
        known.add(id(operation))
        yield operation
        left += [tensor.op for tensor in operation.inputs]


def _is_of_rows(tensor: tf.Tensor) -> bool:
    """Whether it holds a loss of each row, or is a sum over rows."""
    if tensor.shape.rank == 1:
        return tensor.shape[0] is None
    sums = (one for one in _linear_before([tensor]) if one.type == "Sum")
    shapes = (one.inputs[0].shape for one in sums)
    return tensor.shape.rank == 0 and any(s.rank and s[0] is None for s in shapes)


def _is_size(weight: tf.Tensor, sizes: set[int]) -> bool:
    """Whether it is one number, above 1: a size of a batch, or read off a shape."""
    value = tf.get_static_value(weight)
    if value is not None:
        return bool(value.ndim == 0 and float(value) > 1 and float(value) in sizes)
    return weight.shape.rank == 0 and _is_read_off_rows(weight.op)


def _is_read_off_rows(operation: Any) -> bool:
    """Whether it is how many rows, or elements, a tensor has."""
    operation = _source_of(operation, {"Cast", "Identity"})
    if operation.type == "StridedSlice":
        begin = tf.get_static_value(operation.inputs[1])
        operation = operation.inputs[0].op
        return operation.type == "Shape" and begin is not None and not begin.any()
    return operation.type == "Size"


def _shown(weight: Any) -> str:
    value = tf.get_static_value(weight)
    return "read off a shape" if value is None else f"{float(value):g}"


def _weight_names(batch: Any) -> set[str]:
    """The placeholders of sample weights: the step's argument is called leaves."""
    if len(batch) < 3:
        return set()
    before, all_leaves = len(tf.nest.flatten(batch[:2])), len(tf.nest.flatten(batch))
    return {f"leaves_{i}" for i in range(before, all_leaves)}


_TRANSPARENT = {"Cast", "Identity", "Reshape", "ExpandDims", "Squeeze", "StridedSlice"}


def _source_of(operation: Any, transparent: set[str]) -> Any:
    while operation.type in transparent:
        operation = operation.inputs[0].op
    return operation


def _source(operation: Any) -> str:
    """The name of the argument that this is a view of, or nothing."""
    operation = _source_of(operation, _TRANSPARENT)
    return operation.name if operation.type == "Placeholder" else ""

"""What a comparison of 1 with N replicas cannot see: looked for on one device."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class Calls:
    """Suspicious calls and divisions in a step, found while it is traced."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._weights: set[str] = set()
        self.constants: set[int] = set()

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
            self.constants.add(int(constant))
        if shape.rank is not None and shape.rank > 1:
            self._found["elements-divided-by-rows"] = (
                f"tf.nn.compute_average_loss got losses of shape {shape}: it adds up "
                "all axes and divides by rows only"
            )
        if weight is not None and _is_number_of_rows(tf.convert_to_tensor(weight)):
            self._found["batch-size-as-weight"] = (
                f"tf.nn.compute_average_loss got one number, {_shown(weight)}, as "
                "sample_weight, its second argument"
            )

    def look_at(self, graph: Any, batch: Any) -> None:
        """Looks through a traced step."""
        self._weights = _weight_names(batch)
        for operation in graph.get_operations():
            if operation.type == "Mean":
                self._look_at_mean(operation)
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
        rank = numerator.shape.rank
        value = tf.get_static_value(denominator)
        if value is None or value.ndim or rank is None or rank > 1:
            return
        if float(value) > 1 and float(value).is_integer():
            self.constants.add(int(value))


def _is_number_of_rows(weight: tf.Tensor) -> bool:
    """A single number above 1, or one that is read off a shape."""
    value = tf.get_static_value(weight)
    if value is not None:
        return bool(value.ndim == 0 and float(value) > 1)
    read = _source_of(weight.op, {"Cast", "Identity", "StridedSlice"})
    return weight.shape.rank == 0 and read.type in ("Shape", "Size")


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

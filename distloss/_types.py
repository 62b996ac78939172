"""The words of distloss as types: aliases and closed choices."""

from typing import Any, Literal, TypeAlias, get_args

# Whatever `tf.convert_to_tensor` takes: tensor, variable, array, list, number.
TensorLike: TypeAlias = Any

# What `keras.losses.get` takes, or a callable (y_true, y_pred) -> element losses.
LossLike: TypeAlias = Any

# A `tf.Tensor` or `tf.IndexedSlices`: what `tape.gradient` gives for a variable.
Gradient: TypeAlias = Any

Reduction: TypeAlias = Literal[
    "sum_over_batch_size",
    "mean",
    "mean_with_sample_weight",
    "mean_of_row_means",
    "sum",
    "none",
]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)

OnNonfinite: TypeAlias = Literal["raise", "warn", "skip"]
ON_NONFINITE: tuple[str, ...] = get_args(OnNonfinite)

GradientOp: TypeAlias = Literal["sum", "average"]
GRADIENT_OPS: tuple[str, ...] = get_args(GradientOp)

Compression: TypeAlias = Literal["none", "fp16", "bf16"]
COMPRESSIONS: tuple[str, ...] = get_args(Compression)

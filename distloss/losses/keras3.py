"""The Keras loss that divides by the whole batch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distloss._errors import NotDecomposableError
from distloss._formula import reduce, shapes
from distloss._keras.compiled_model import loss_for_shapes
from distloss._keras.tf_keras import is_of_tf_keras
from distloss._types import LossLike, Reduction, TensorLike
from distloss.losses.arguments import (
    checked_reduction,
    found_loss,
    name_of,
    refuse_own_call,
)
from distloss.losses.global_loss import GlobalLoss, refuse_distributed
from distloss.losses.tf_keras import distributed_loss
from distloss.replicas import Replicas


@keras.saving.register_keras_serializable("distloss")
class DistributedLoss(GlobalLoss, keras.losses.Loss):
    """A Keras loss whose gradient does not depend on how the batch is split.

    Where `loss` is of tf-keras (Keras 2), or `tf.keras` is tf-keras by
    TF_USE_LEGACY_KERAS=1 and `loss` is of no Keras, this makes a
    `tf_keras.losses.Loss` instead, with the same meaning. Its `reduction` is "sum" to
    tf-keras, which would otherwise divide by the number of replicas once more;
    `global_reduction` is ours.

    Replicas that each take the mean of their own rows and then add gradients get
    the mean of means, which is not the mean once they hold unequal numbers of rows,
    tokens or weights. This loss divides each replica's sum by the denominator of
    the whole batch, W, so that the gradients of all replicas add up to the gradient
    that one device computes. S and W are sums over all replicas:

    | reduction | S | W |
    |---|---|---|
    | `"sum_over_batch_size"`, `"mean"` | sum(w*v), unmasked | unmasked elements |
    | `"mean_with_sample_weight"` | sum(w*v), unmasked | sum(w), unmasked |
    | `"mean_of_row_means"` | sum over rows of sum(w*v) / sum(w) | rows with weight |
    | `"sum"` | sum(w*v), unmasked | 1 |
    | `"none"` | not reduced: local w*v per element | - |

    Each is what the wrapped loss alone means on one device, but
    `"mean_of_row_means"`, which Keras does not have: every row (sequence) counts the
    same, however many of its elements (tokens) have weight. Weights with fewer axes
    than the element losses weigh rows, where Keras 3 takes them by NumPy's rule. Where
    W is 0, the loss and its gradient are 0.

    **Counted** (default): S and W are summed over replicas in one collective of two
    scalars per step, or of three where it must be known whether rows share weights;
    with one replica there is none. Each replica returns the same
    number, S / W / N for N replicas: `strategy.reduce("SUM", ...)` of it is the mean
    over the whole batch, and `history["loss"]` and `evaluate` show that mean.

    **Static** (`global_batch_size=`): no collective is needed, since W of both means is
    that number of rows times the elements per row, whatever the weights and masks (W
    of `"sum"` stays 1). A short batch is divided by the same constant, as
    `tf.nn.compute_average_loss` does for losses of rows, so its rows weigh as much as
    those of a full batch and its loss reads lower. Each replica returns its own
    share; the shares add up to S / W.

    Args:
      loss: what to wrap: a `keras.losses.Loss`, an identifier such as `"mse"`, or a
        callable `(y_true, y_pred) -> values` that returns the loss of each row,
        token or pixel, rank 1 or more, rows along axis 0.
      reduction: one of the table above. None takes that of `loss`
        (`"sum_over_batch_size"` for identifiers and callables).
      replicas: who shares the batch: None or `StrategyReplicas()` for the current
        `tf.distribute` strategy, `OneDevice()` for nobody else.
      global_batch_size: rows of the global batch: positive int or scalar integer
        tensor. None counts.
      name: name of the loss. None takes that of `loss`.

    Call args:
      y_true: local targets, shape `[rows, ...]`; as `loss` wants them.
      y_pred: local predictions, shape `[rows, ...]`, any float dtype. Its
        `_keras_mask` drops elements.
      sample_weight: local weights, zero or more (of negative ones W may be 0, a NaN
        makes the loss NaN, as in Keras): None, a scalar, `[rows]`, or a
        shape that broadcasts to the element losses. A first axis of size 1 holds
        weights that all rows share; where each replica has one row, its row's own.

    Returns:
      float32 scalar (float64 if `y_pred` is float64), unit of the wrapped loss.
      Element losses of the same dtype for `"none"`.

    Raises:
      ArgumentError: unknown identifier or reduction, `global_batch_size` below 1.
      ArgumentTypeError: `loss`, `replicas` or `global_batch_size` of a wrong type,
        or `loss` is a `DistributedLoss` already; targets, predictions, element losses,
        weights or a mask are complex, ragged, strings or no tensors.
      ScalarLossError: `loss` returns a scalar: its sum cannot be recovered.
      ShapeError: weights do not broadcast to the element losses, or these have no
        rows.
      NotDecomposableError: `loss` compares rows with each other and there are several
        replicas (`keras.losses.Circle`).
      ContextError: called in cross-replica context of several replicas, or by a model
        that is not prepared on several replicas, in Keras before 3.8.

    Example:
      >>> from distloss import DistributedLoss
      >>> loss = DistributedLoss("mse", reduction="mean_with_sample_weight")
      >>> float(loss([[0.0], [0.0]], [[1.0], [3.0]], sample_weight=[3.0, 1.0]))
      3.0

    Reference: examples/guides/formula.md.
    """

    saving = keras.saving

    def __new__(cls, loss: LossLike = None, **arguments: Any) -> Any:
        """A loss of the Keras that `loss` is of."""
        if loss is not None and is_of_tf_keras(loss):
            return distributed_loss(loss, **arguments)
        return super().__new__(cls)

    def __init__(
        self,
        loss: LossLike,
        *,
        reduction: Reduction | None = None,
        replicas: Replicas | None = None,
        global_batch_size: int | tf.Tensor | None = None,
        name: str | None = None,
    ) -> None:
        self._element_loss = _element_loss(loss)
        # Keras saves losses, functions and names, but neither configs nor classes
        is_saved = not isinstance(loss, dict | type)
        self.loss = loss if is_saved else self._element_loss
        self.global_reduction = checked_reduction(reduction, self._element_loss)
        super().__init__(
            name=name or self._element_loss.name, dtype=self._element_loss.dtype
        )
        # not by the class, since older Keras knows fewer
        self.reduction = self.global_reduction
        self._share_batch(replicas, global_batch_size)

    @reduce.without_autograph
    def __call__(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> tf.Tensor:
        """The loss of this replica's rows, as the class says."""
        with tf.name_scope("distributed_loss"):  # a name may be no scope: "<lambda>"
            return self._of_rows(self.call(y_true, y_pred), y_pred, sample_weight)

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """The loss of each element: local float, shape `[rows, ...]`."""
        self._refuse_coupled_rows()
        dtype = self._compute_dtype(y_pred)
        y_true, y_pred = (
            keras.tree.map_structure(
                lambda x: keras.ops.convert_to_tensor(_real(x), dtype=dtype.name), nest
            )
            for nest in (y_true, y_pred)
        )
        return self._checked_values(self._element_values, y_true, y_pred)

    def _element_values(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        fails_on_zero_rows = self._computes("ctc", "categorical_hinge")
        if fails_on_zero_rows and y_pred.shape[0] in (None, 0):
            return _without_the_empty_batch(self._element_loss.call, y_true, y_pred)
        return self._element_loss.call(y_true, y_pred)

    def _computes(self, *names: str) -> bool:
        functions = [getattr(keras.losses, name, None) for name in names]
        function = getattr(self._element_loss, "fn", None)
        return function is not None and function in functions

    def _compute_dtype(self, y_pred: TensorLike) -> tf.DType:
        if reduce.accumulator_dtype(*keras.tree.flatten(y_pred)) == tf.float64:
            return tf.float64
        return tf.as_dtype(self.dtype)

    def _refuse_coupled_rows(self) -> None:
        replica_count = self._replicas.count()
        if self._computes("circle") and replica_count > 1:
            raise NotDecomposableError(
                "Expected a loss that is a sum over rows. Got keras.losses.Circle, "
                f"which compares each row with all others, on {replica_count} replicas "
                "that each see only their own rows. Train it on one device, or gather "
                "embeddings and labels of all replicas first and wrap a callable that "
                "compares local rows with the gathered ones."
            )


class _FunctionLoss(keras.losses.Loss):
    """A function as a loss, with targets and predictions of the same rank.

    Keras' own `LossFunctionWrapper` is not public.
    """

    def __init__(self, fn: Any, name: str) -> None:
        super().__init__(name=name)
        self.fn = fn

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> Any:
        flat_true, flat_pred = keras.tree.flatten(y_true), keras.tree.flatten(y_pred)
        if len(flat_true) == len(flat_pred):
            pairs = map(shapes.same_rank, flat_true, flat_pred)
            flat_true, flat_pred = zip(*pairs, strict=True)
        return self.fn(
            keras.tree.pack_sequence_as(y_true, flat_true),
            keras.tree.pack_sequence_as(y_pred, flat_pred),
        )


_CUT = ("complex", "string", "<U", "object")  # dtypes that a cast to float would cut


def _real(value: Any) -> Any:
    """`value`, a target or prediction that a cast to float leaves whole."""
    dtype = getattr(value, "dtype", None)
    # ragged and sparse ones have a dtype, and are what the loss makes of them
    if dtype is None or any(kind in str(dtype) for kind in _CUT):
        shapes.numbers(value, "targets and predictions")
    return value


def _element_loss(loss: LossLike) -> keras.losses.Loss:
    """The Keras loss whose `call` gives element losses."""
    refuse_distributed(loss)
    found = _found_loss(loss)
    if not isinstance(found, keras.losses.Loss):
        return _FunctionLoss(found, name_of(loss, found))
    refuse_own_call(found, keras.losses.Loss)
    return found


def _crossentropy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    # compile(loss="crossentropy") chooses between the binary, the categorical and
    # the sparse one when it first sees shapes; no public function does.
    return loss_for_shapes("crossentropy", y_true, y_pred).call(y_true, y_pred)


def _found_loss(loss: LossLike) -> Any:
    if str(loss).lower() in ("crossentropy", "ce"):
        return _crossentropy
    return found_loss(loss, keras.losses)


def _without_the_empty_batch(
    call: Any, y_true: tf.Tensor, y_pred: tf.Tensor
) -> tf.Tensor:
    """`call(y_true, y_pred)`, for a call that fails on an empty shard's zero rows."""
    rows = tf.shape(y_pred)[0]
    extra_rows = tf.cast(tf.equal(rows, 0), tf.int32)

    def at_least_one_row(tensor: tf.Tensor) -> tf.Tensor:
        extra = tf.concat([[extra_rows], tf.shape(tensor)[1:]], 0)
        return tf.concat([tensor, tf.zeros(extra, tensor.dtype)], 0)

    return call(at_least_one_row(y_true), at_least_one_row(y_pred))[:rows]

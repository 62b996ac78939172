"""The Keras loss that divides by the whole batch."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.compile_utils import get_loss as loss_for_shapes

from distloss import _denominators, _keras_versions, _reduce
from distloss._errors import (
    ArgumentError,
    ArgumentTypeError,
    ContextError,
    NotDecomposableError,
    ScalarLossError,
    ShapeError,
)
from distloss._types import REDUCTIONS, LossLike, Reduction, TensorLike
from distloss.replicas import (
    Replicas,
    StrategyReplicas,
    replicas_or_current_strategy,
)


@keras.saving.register_keras_serializable("distloss")
class DistributedLoss(keras.losses.Loss, _denominators.Announces):
    """A Keras loss whose gradient does not depend on how the batch is split.

    Replicas that each take the mean of their own rows and then add gradients get
    the mean of means, which is not the mean once they hold unequal numbers of rows,
    tokens or weights. This loss divides each replica's sum by the denominator of
    the whole batch, W, so that the gradients of all replicas add up to the gradient
    that one device computes. S and W are sums over all replicas:

    | reduction | S | W |
    |---|---|---|
    | `"sum_over_batch_size"`, `"mean"` | sum(w*v), unmasked | unmasked elements |
    | `"mean_with_sample_weight"` | sum(w*v), unmasked | sum(w), unmasked |
    | `"sum"` | sum(w*v), unmasked | 1 |
    | `"none"` | not reduced: local w*v per element | - |

    Each is what the wrapped loss alone means on one device; weights with fewer axes
    than the element losses weigh rows, where Keras 3 takes them by NumPy's rule. Where
    W is 0, the loss and its gradient are 0.

    **Counted** (default): S and W are summed over replicas in one collective of two
    scalars per step; with one replica there is none. Each replica returns the same
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
      sample_weight: local weights, zero or more: None, a scalar, `[rows]`, or a
        shape that broadcasts to the element losses.

    Returns:
      float32 scalar (float64 if `y_pred` is float64), unit of the wrapped loss.
      Element losses of the same dtype for `"none"`.

    Raises:
      ArgumentError: unknown identifier or reduction, `global_batch_size` below 1.
      ArgumentTypeError: `loss`, `replicas` or `global_batch_size` of a wrong type,
        or `loss` is a `DistributedLoss` already.
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

    Reference: README, "The formula".
    """

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
        own_reduction = self._element_loss.reduction or "none"
        super().__init__(
            name=name or self._element_loss.name, dtype=self._element_loss.dtype
        )
        # not by the class, since older Keras knows fewer
        self.reduction = _checked_reduction(
            own_reduction if reduction is None else reduction
        )
        self.replicas = replicas
        replicas_or_current_strategy(replicas)  # refuses what is none
        self.global_batch_size = _checked_batch_size(global_batch_size)

    @property
    def _replicas(self) -> Replicas:
        return replicas_or_current_strategy(self.replicas)

    @_reduce.without_autograph
    def __call__(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> tf.Tensor:
        """The loss of this replica's rows, as the class says."""
        with tf.name_scope("distributed_loss"):  # a name may be no scope: "<lambda>"
            values = self.call(y_true, y_pred)
            mask = _joint_mask(y_pred, values)
            local = _reduce.weighted(values, sample_weight, mask)
            if self.reduction == "none":
                return local.elements
            return self._reduced(local)

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """The loss of each element: local float, shape `[rows, ...]`."""
        self._refuse_coupled_rows()
        dtype = self._compute_dtype(y_pred)
        y_true, y_pred = (
            keras.tree.map_structure(
                lambda x: keras.ops.convert_to_tensor(x, dtype=dtype.name), nest
            )
            for nest in (y_true, y_pred)
        )
        values = self._element_values(y_true, y_pred)
        if values.shape.rank == 0:
            raise ScalarLossError(
                "Expected the loss of each row, of shape [rows, ...]. Got a scalar "
                f"from loss {self.name!r}, values.shape={values.shape}. Return the "
                "values before they are reduced, and let reduction= reduce them; Dice "
                "and Tversky do so when axis= leaves out axis 0."
            )
        self._refuse_reduced_rows(y_pred, values)
        return values

    def _element_values(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        fails_on_zero_rows = self._computes("ctc", "categorical_hinge")
        if fails_on_zero_rows and y_pred.shape[0] in (None, 0):
            return _without_the_empty_batch(self._element_loss.call, y_true, y_pred)
        values = self._element_loss.call(y_true, y_pred)
        return values if tf.is_tensor(values) else tf.convert_to_tensor(values)

    def _computes(self, *names: str) -> bool:
        functions = [getattr(keras.losses, name, None) for name in names]
        function = getattr(self._element_loss, "fn", None)
        return function is not None and function in functions

    def _kind(self) -> str:
        """A word for the loss that does not depend on what was made before it."""
        element_loss: Any = self._element_loss
        if isinstance(element_loss, _FunctionLoss):
            return getattr(element_loss.fn, "__name__", type(element_loss.fn).__name__)
        return type(element_loss).__name__

    def _compute_dtype(self, y_pred: TensorLike) -> tf.DType:
        if _reduce.accumulator_dtype(*keras.tree.flatten(y_pred)) == tf.float64:
            return tf.float64
        return tf.as_dtype(self.dtype)

    def _reduced(self, local: _reduce.Weighted) -> tf.Tensor:
        step = _denominators.current_step()
        if step is not None:
            self._refuse_forward_pass(step)
        elif _keras_versions.is_read_by_trackers_that_do_not_multiply():
            self._refuse_unprepared()
        if isinstance(step, _denominators.Part):
            return self._share_of_part(local, step)
        value, denominator = self._value_and_denominator(local)
        return _denominators.announced(value, denominator, self)

    def _value_and_denominator(self, local: _reduce.Weighted) -> _reduce.Reduced:
        total = _reduce.total(local)
        if self.global_batch_size is None:
            weight = self._local_weight(local)
            name = f"{self.reduction}_of_{self._kind()}"
            return _reduce.counted_share(total, weight, self._replicas, name)
        rows = self._fixed_denominator(local)
        own = _reduce.share(total, rows)
        to_reduce = self._replicas.to_reduce(own)
        reported = self._replicas.reported_share(own)
        value = _reduce.value_with_gradient_of(to_reduce, reported)
        return _reduce.Reduced(value, rows)

    def _fixed_denominator(self, local: _reduce.Weighted) -> tf.Tensor:
        if self.reduction == "sum":
            return tf.ones((), local.elements.dtype)
        return _reduce.fixed_count(local, self.global_batch_size)

    def _share_of_part(
        self, local: _reduce.Weighted, part: _denominators.Part
    ) -> tf.Tensor:
        weight = self._local_weight(local)
        total = _reduce.total(local)
        if part.denominators is None:
            part.weights.append(tf.zeros_like(total) if weight is None else weight)
            return tf.zeros_like(total)
        if weight is None:
            denominator = self._fixed_denominator(local)
        else:
            denominator = tf.cast(part.denominators[len(part.shares)], total.dtype)
        part.shares.append(_reduce.share(total, denominator))
        return part.shares[-1]

    def _refuse_forward_pass(self, step: _denominators.Step) -> None:
        if not step.in_loss:
            raise ContextError(
                "Expected a DistributedLoss to be compiled into a prepared model. Got "
                f"a call of loss {self.name!r} in the model's forward pass. Let the "
                "layer call self.add_loss with the mean over its own rows: "
                "distloss.prepare weighs added losses by each replica's rows."
            )

    def _refuse_unprepared(self) -> None:
        count = StrategyReplicas().count()
        # While Keras builds, there is no step; a wrong one is refused after that.
        if count > 1 and not _keras_versions.in_symbolic_scope():
            raise ContextError(
                "Expected Keras 3.8 or newer, or a prepared model, to call loss "
                f"{self.name!r} in fit or evaluate on {count} replicas. Got "
                f"keras.__version__={keras.__version__}, which would count what layers "
                "add once per replica. Call distloss.prepare(model), or install a "
                "newer Keras: pip install --upgrade keras."
            )

    def _local_weight(self, local: _reduce.Weighted) -> tf.Tensor | None:
        """W_r, or None where W is fixed and nobody has to count."""
        if self.reduction == "sum" or self.global_batch_size is not None:
            return None
        if self.reduction == "mean_with_sample_weight":
            return _reduce.keras_sample_weight(local, self._replicas)
        return _reduce.element_count(local)

    def _refuse_reduced_rows(self, y_pred: Any, values: tf.Tensor) -> None:
        axis = getattr(self._element_loss, "_fn_kwargs", {}).get("axis")
        axes = axis if isinstance(axis, list | tuple) else [axis]
        # Where the number of rows is open, values of a fixed length are no rows.
        rows_are_open = (
            tf.is_tensor(y_pred) and y_pred.shape.rank and y_pred.shape[0] is None
        )
        if 0 in axes or (rows_are_open and values.shape[0] is not None):
            raise ShapeError(
                "Expected the loss of each row, of shape [rows, ...]. Got from loss "
                f"{self.name!r} values.shape={values.shape}, axis={axis}, without the "
                "rows. Leave axis 0 out of what the loss reduces."
            )

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

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        rows = self.global_batch_size
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "reduction": self.reduction,
            "replicas": keras.saving.serialize_keras_object(self.replicas),
            "global_batch_size": None if rows is None else int(rows),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DistributedLoss:
        """A new object with the arguments that `get_config` returned."""
        loss, replicas = (
            keras.saving.deserialize_keras_object(config[key])
            for key in ("loss", "replicas")
        )
        return cls(**{**config, "loss": loss, "replicas": replicas})


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
            pairs = map(_reduce.same_rank, flat_true, flat_pred)
            flat_true, flat_pred = zip(*pairs, strict=True)
        return self.fn(
            keras.tree.pack_sequence_as(y_true, flat_true),
            keras.tree.pack_sequence_as(y_pred, flat_pred),
        )


def _element_loss(loss: LossLike) -> keras.losses.Loss:
    """The Keras loss whose `call` gives element losses."""
    if isinstance(loss, DistributedLoss):
        raise ArgumentTypeError(
            f"Expected a loss to wrap. Got loss={loss.name!r}, a DistributedLoss "
            "already: its scale would be applied twice. Pass loss.loss, or use it as "
            "it is."
        )
    found = _found_loss(loss)
    if not isinstance(found, keras.losses.Loss):
        name = loss if isinstance(loss, str) else getattr(found, "__name__", None)
        return _FunctionLoss(found, name or type(found).__name__)
    if type(found).__call__ is not keras.losses.Loss.__call__:
        raise ArgumentTypeError(
            "Expected a loss that leaves weights and reduction to keras.losses.Loss. "
            f"Got loss={loss!r}, whose class overrides __call__. Override call() "
            "instead, or pass a callable that returns the loss of each row."
        )
    return found


def _crossentropy(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    # compile(loss="crossentropy") chooses between the binary, the categorical and
    # the sparse one when it first sees shapes; no public function does.
    return loss_for_shapes("crossentropy", y_true, y_pred).call(y_true, y_pred)


def _found_loss(loss: LossLike) -> Any:
    if not (isinstance(loss, str | dict) or callable(loss)):
        raise ArgumentTypeError(
            "Expected loss= to be a keras.losses.Loss, an identifier such as 'mse', or "
            "a callable (y_true, y_pred) -> values. Got "
            f"loss={loss!r} of type {type(loss).__name__}."
        )
    if str(loss).lower() in ("crossentropy", "ce"):
        return _crossentropy
    try:
        return keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "Expected the name or config of a loss that keras.losses.get knows, such "
            f"as 'mse'. Got loss={loss!r}. Pass one of these, or the loss itself."
        ) from error


def _checked_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ArgumentError(
            f"Expected reduction= to be one of {', '.join(map(repr, REDUCTIONS))}, or "
            f"None for the wrapped loss's own. Got reduction={reduction!r}."
        )
    return reduction


def _checked_batch_size(rows: Any) -> int | tf.Tensor | None:
    if rows is None:
        return None
    is_count = (
        rows.dtype.is_integer and rows.shape.rank == 0
        if tf.is_tensor(rows)
        else isinstance(rows, numbers.Integral) and not isinstance(rows, bool)
    )
    if not is_count:
        raise ArgumentTypeError(
            "Expected global_batch_size= to be a number of rows, an int or a scalar "
            f"integer tensor. Got global_batch_size={rows!r} of type "
            f"{type(rows).__name__}. Pass rows over all replicas; for a sum of weights "
            "leave it out and use reduction='mean_with_sample_weight'."
        )
    if tf.get_static_value(rows) is not None and np.asarray(rows) < 1:
        raise ArgumentError(
            "Expected global_batch_size= to be at least 1 row. Got global_batch_size="
            f"{rows!r}. Pass rows over all replicas, or None to count."
        )
    return rows if tf.is_tensor(rows) else int(rows)


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


def _joint_mask(y_pred: TensorLike, values: tf.Tensor) -> tf.Tensor | None:
    """The mask that Keras attached to predictions, element losses, or both."""
    masks = [getattr(tensor, "_keras_mask", None) for tensor in (y_pred, values)]
    present = [tf.cast(mask, tf.bool) for mask in masks if mask is not None]
    if len(present) == 2:
        return present[0] & present[1]
    return present[0] if present else None

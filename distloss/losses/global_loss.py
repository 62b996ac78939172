"""The part of a `DistributedLoss` that is the same in Keras 3 and in tf-keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from distloss._errors import (
    ArgumentError,
    ArgumentTypeError,
    ContextError,
    ScalarLossError,
    ShapeError,
)
from distloss._formula import denominators, reduce, shapes
from distloss._formula.normalization import LossSums, normalized_now
from distloss._formula.step_context import (
    StepContext,
    current_step,
    note_element_losses,
)
from distloss._keras import versions
from distloss._keras.layer_hooks import arguments_of
from distloss._keras.tensors import mask_of
from distloss._types import TensorLike
from distloss.losses.arguments import checked_batch_size
from distloss.replicas import Replicas, StrategyReplicas, replicas_or_current_strategy

_Call = Callable[[Any, Any], Any]  # targets and predictions to element losses

# Keras losses that hold a function, which says more than their name.
FUNCTION_LOSSES = ("_FunctionLoss", "LossFunctionWrapper")


class GlobalLoss(denominators.RecordsDenominator):
    """Element losses of local rows, reduced by a denominator of the whole batch.

    Attributes:
      loss: what was wrapped.
      global_reduction: one of `REDUCTIONS`, over all replicas.
      replicas: who shares the batch, or None for the current strategy's replicas.
      global_batch_size: W in rows where it is fixed, or None.
      saving: the module of a Keras that writes and reads configs of losses.
      monitor: a variable in which the global W of each step is noted, or None.
    """

    name: Any
    loss: Any
    replicas: Replicas | None
    global_batch_size: Any
    saving: Any
    monitor: tf.Variable | None = None
    _element_loss: Any

    def _share_batch(self, replicas: Replicas | None, global_batch_size: Any) -> None:
        """Takes the arguments that say who shares it, and how large it is."""
        self.replicas = replicas
        replicas_or_current_strategy(replicas)  # raises for a wrong argument
        self.global_batch_size = checked_batch_size(global_batch_size)

    @property
    def _replicas(self) -> Replicas:
        return replicas_or_current_strategy(self.replicas)

    @reduce.without_autograph
    def _of_rows(self, values: tf.Tensor, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        """The loss of this replica's rows."""
        mask = _joint_mask(y_pred, values)
        local = reduce.weighted(values, sample_weight, mask)
        note_element_losses(local.elements)
        if self.global_reduction == "none":
            return local.elements
        if self.global_reduction == "mean_of_row_means":
            local = reduce.row_means(local)
        return self._reduced(local)

    def _reduced(self, local: reduce.Weighted) -> tf.Tensor:
        step = current_step()
        self._refuse_wrong_place(step)
        sums = self._sums(local)
        return normalized_now(sums) if step is None else step.normalize(sums)

    def _sums(self, local: reduce.Weighted) -> LossSums:
        weight = self._local_weight(local)
        return LossSums(
            self,
            self._replicas,
            self._sums_name(),
            reduce.total(local),
            weight,
            self._fixed_denominator(local) if weight is None else None,
            reduce.sharing_of(local, self.global_reduction),
            is_told=self.global_batch_size is not None,
        )

    def note(self, denominator: tf.Tensor) -> None:
        """Notes the global W of a step, if anybody wants to know."""
        if self.monitor is not None:
            self.monitor.assign(tf.cast(denominator, self.monitor.dtype))

    def _fixed_denominator(self, local: reduce.Weighted) -> tf.Tensor:
        if self.global_reduction == "sum":
            return tf.ones((), local.elements.dtype)
        return reduce.fixed_count(local, self.global_batch_size)

    def _refuse_wrong_place(self, step: StepContext | None) -> None:
        if step is None:
            if versions.is_read_by_trackers_that_do_not_multiply():
                self._refuse_unprepared()
        elif not step.in_loss:
            raise ContextError(
                "Expected a DistributedLoss to be compiled into a prepared model. Got "
                f"a call of loss {self.name!r} in the model's forward pass. Let the "
                "layer call self.add_loss with the mean over its own rows: "
                "distloss.prepare weighs added losses by each replica's rows."
            )

    def _refuse_unprepared(self) -> None:
        count = StrategyReplicas().count()
        # While Keras builds, there is no step; a wrong one is refused after that.
        if count > 1 and not versions.in_symbolic_scope():
            raise ContextError(
                "Expected Keras 3.8 or newer, or a prepared model, to call loss "
                f"{self.name!r} in fit or evaluate on {count} replicas. Got "
                f"keras.__version__={keras.__version__}, which would count what layers "
                "add once per replica. Call distloss.prepare(model), or install a "
                "newer Keras: pip install --upgrade keras."
            )

    @property
    def is_counted(self) -> bool:
        """Whether the denominator is a sum over replicas of what each of them has."""
        is_mean = self.global_reduction not in ("sum", "none")
        return is_mean and self.global_batch_size is None

    def _local_weight(self, local: reduce.Weighted) -> tf.Tensor | None:
        """W_r, or None where W is fixed and nobody has to count."""
        if not self.is_counted:
            return None
        return reduce.weight_of(local, self.global_reduction, self._replicas)

    def _sums_name(self) -> str:
        return f"{self.global_reduction}_of_{self._kind()}"

    def _kind(self) -> str:
        """A word for the loss that does not depend on what was made before it."""
        element_loss = self._element_loss
        if element_loss.__class__.__name__ not in FUNCTION_LOSSES:
            return type(element_loss).__name__
        return getattr(element_loss.fn, "__name__", type(element_loss.fn).__name__)

    @reduce.without_autograph
    def _checked_values(self, call: _Call, y_true: Any, y_pred: Any) -> tf.Tensor:
        """`call(y_true, y_pred)`, element losses: a tensor with rows along axis 0."""
        values = call(y_true, y_pred)
        if not tf.is_tensor(values):
            values = shapes.numbers(values, "element losses")
        if values.shape.rank == 0:
            raise ScalarLossError(
                "Expected the loss of each row, of shape [rows, ...]. Got a scalar "
                f"from loss {self.name!r}, values.shape={values.shape}. Return the "
                "values before they are reduced, and let reduction= reduce them; Dice "
                "and Tversky do so when axis= leaves out axis 0."
            )
        rows_are_open = _rows_are_open(y_pred) and not (
            _rows_are_those_of(y_true, values) and _keeps_rows(call, y_true, y_pred)
        )
        self._refuse_reduced_rows(rows_are_open, values)
        return values

    def _refuse_reduced_rows(self, rows_are_open: bool, values: tf.Tensor) -> None:
        axis = arguments_of(self._element_loss).get("axis")
        axes = axis if isinstance(axis, list | tuple) else [axis]
        # Where the number of rows is open, values of a fixed length are no rows.
        if 0 in axes or (rows_are_open and values.shape[0] is not None):
            raise ShapeError(
                "Expected the loss of each row, of shape [rows, ...]. Got from loss "
                f"{self.name!r} values.shape={values.shape}, axis={axis}, without the "
                "rows. Leave axis 0 out of what the loss reduces."
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save."""
        rows = self.global_batch_size
        return {
            "loss": self.saving.serialize_keras_object(self.loss),
            "reduction": self.global_reduction,
            "replicas": keras.saving.serialize_keras_object(self.replicas),
            "global_batch_size": None if rows is None else int(rows),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A new object with the arguments that `get_config` returned."""
        loss = cls.saving.deserialize_keras_object(config["loss"])
        replicas = keras.saving.deserialize_keras_object(config["replicas"])
        return cls(**{**config, "loss": loss, "replicas": replicas})


def to_compile(loss: Any, wrap: Callable[[Any], Any]) -> Any:
    """`loss` of a compiled model, distributed by `wrap` if it is not; None stays.

    Raises:
      ArgumentError: it does not reduce to a number.
    """
    if loss is None:
        return None
    if not isinstance(loss, GlobalLoss):
        loss = wrap(loss)
    if loss.global_reduction == "none":
        raise ArgumentError(
            f"Expected losses that reduce to a number. Got loss {loss.name!r} with "
            "reduction='none', whose sum over replicas Keras would take without "
            "dividing. Use reduction='sum' or one of the means."
        )
    return loss


def refuse_distributed(loss: Any) -> None:
    """Raises ArgumentTypeError where `loss` is a DistributedLoss."""
    if isinstance(loss, GlobalLoss):
        raise ArgumentTypeError(
            f"Expected a loss to wrap. Got loss={loss.name!r}, a DistributedLoss "
            "already: its scale would be applied twice. Pass loss.loss, or use it as "
            "it is."
        )


def _rows_are_open(tensor: Any) -> bool:
    is_known = tf.is_tensor(tensor) and tensor.shape.rank
    return bool(is_known) and tensor.shape[0] is None


def _rows_are_those_of(y_true: Any, values: tf.Tensor) -> bool:
    """Whether `values` may be of the rows of `y_true`, whose number is static."""
    shapes = [target.shape for target in keras.tree.flatten(y_true)]
    rows = [shape[0] for shape in shapes if len(shape) > 0]
    if values.shape[0] is None or None in rows:
        return False
    return any(count and values.shape[0] % count == 0 for count in rows)


def _keeps_rows(call: _Call, y_true: Any, y_pred: Any) -> bool:
    """Whether `call` has as many values as rows, where no number of rows is static.

    As many values as there are rows may be one for each class.
    """
    specs = keras.tree.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), (y_true, y_pred)
    )
    traced = tf.function(call, autograph=False).get_concrete_function(*specs)
    return _rows_are_open(traced.structured_outputs)


def _joint_mask(y_pred: TensorLike, values: tf.Tensor) -> tf.Tensor | None:
    """The mask that Keras attached to predictions, element losses, or both."""
    masks = [mask_of(tensor) for tensor in (y_pred, values)]
    present = [tf.cast(mask, tf.bool) for mask in masks if mask is not None]
    if len(present) == 2:
        return present[0] & present[1]
    return present[0] if present else None

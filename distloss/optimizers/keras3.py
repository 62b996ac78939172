"""The Keras optimizer that reduces first: sum, then clip, then update."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from distloss._keras import inner_optimizers, optimizer_state, tf_keras
from distloss._keras.optimizer_hooks import LossScaleGivenSums
from distloss._types import OnNonfinite
from distloss.optimizers.arguments import (
    Settings,
    check_loss,
    checked_on_nonfinite,
    checked_steps,
    found_optimizer,
    refuse_horovods_own,
    refuse_own_ways_in,
)
from distloss.optimizers.saving import arguments_of, config_of
from distloss.optimizers.steps import MicroSteps
from distloss.optimizers.tf_keras import distributed_optimizer
from distloss.replicas import Replicas, replicas_or_current_strategy


@keras.saving.register_keras_serializable("distloss")
class DistributedOptimizer(MicroSteps):
    """A Keras optimizer that makes one update of one global batch, however split.

    Keras 3 clips each replica's gradients and looks for overflow on replica 0, and
    only then adds the replicas up. Here the order is that of one device:

        unscale -> accumulate -> sum over replicas -> finite check -> clip -> update

    The result has the class of `optimizer` (`isinstance` holds), its settings, and
    its state: iterations, slots and learning rate are the same variables, so go on
    with the result only. `tf.train.Checkpoint` and `.keras` files hold them as they
    do for `optimizer`, so either reads what the other wrote.

    Gradients must be shares that add up to the gradient of the whole batch: those of
    a `DistributedLoss`, of `mean_share`, or of a loss scaled by Keras. They are summed
    once per update, those of one dtype together (between processes in messages of about
    1 MB, see `bucket_bytes` of the replicas); `tf.IndexedSlices` stay sparse, and their
    slices of one row are added up, so that they mean the dense gradient.

    **Loss scaling.** `LossScaleOptimizer` may be wrapped, or wrap the result, as
    `compile` does under `mixed_float16`. The finite check sees the summed gradients:
    Inf on one replica skips the update everywhere and halves the scale once.

    **Accumulation.** With `accumulation_steps=K`, K batches make one update: gradients
    are kept as sums, with the weight W of `loss`, and divided by all their weight at
    the K-th, so that batches of 8 and 5 rows equal one of 13. Replicas communicate
    gradients once per update; slots, `iterations` and schedules move once. Up to K - 1
    batches at the end of an epoch are carried over to the next: `flush()` makes an
    update of them at once. What is accumulated is part of a `tf.train.Checkpoint`, and
    not of a `.keras` file: flush before saving one. Sparse gradients are accumulated
    densely.

    **Checked sums.** With `check_sums=True` a few numbers travel with the gradients, by
    which each replica sees whether what came back is the sum of what was sent: parts
    that are missing, count twice, are of the step before or in another place, and
    values that changed by more than rounding allows. A step whose sum is wrong makes no
    update, and raises. So does one whose gradients are not finite, unless a
    `LossScaleOptimizer` looks after that: it says on which replica, in which variable,
    and, in a prepared model, the loss of which row. In a `tf.function` of your own, the
    error is one of TensorFlow with this text; `distloss.sum_errors` makes it ours.

    Args:
      optimizer: a `keras.optimizers.Optimizer`, or an identifier such as `"adam"`. An
        optimizer of tf-keras (Keras 2) gives one of its class, without accumulation.
      replicas: who shares the batch; None means the current strategy's replicas.
      accumulation_steps: batches per update, a positive int.
      loss: the `DistributedLoss` by which the gradients were divided. Needed where
        `accumulation_steps` is above 1.
      check_sums: whether each sum over replicas is checked.
      on_nonfinite: what to do in a step whose gradients are not finite: `"raise"`, the
        default with `check_sums=True`; `"warn"`, and make the update; `"skip"`: warn,
        and make none. Needs `check_sums=True`.

    Raises:
      CorruptedSumError: with `check_sums`, in a step: a sum was wrong.
      NonfiniteGradientError: with `check_sums`, in a step: a gradient was not finite.
      ArgumentTypeError: an argument of a wrong type, or `optimizer` is distributed
        already, by distloss or by Horovod.
      ArgumentError: `accumulation_steps` below 1, a `loss` that cannot be accumulated,
        an optimizer that accumulates by itself (`gradient_accumulation_steps`), or an
        `on_nonfinite` that is unknown or without `check_sums`.
      ContextError: when applied: in cross-replica context of several replicas, or
        where the weight of the gradients is not known, or with `check_sums` where XLA
        compiles the step.

    Example:
      >>> import keras
      >>> from distloss import DistributedOptimizer
      >>> optimizer = DistributedOptimizer(keras.optimizers.SGD(0.5, clipnorm=1.0))
      >>> isinstance(optimizer, keras.optimizers.SGD)
      True
      >>> weight = keras.Variable([3.0])
      >>> _ = optimizer.apply_gradients([([10.0], weight)])
      >>> weight.numpy().tolist()
      [2.5]

    Reference: examples/guides/precision_and_clipping.md.
    """

    def __new__(cls, optimizer: Any, **arguments: Any) -> DistributedOptimizer:
        """An object of a class made for `optimizer`."""
        refuse_horovods_own(optimizer)
        if tf_keras.is_of_tf_keras(optimizer):
            steps = checked_steps(arguments.get("accumulation_steps", 1))
            replicas = arguments.get("replicas")
            on_nonfinite = checked_on_nonfinite(
                arguments.get("check_sums", False), arguments.get("on_nonfinite")
            )
            return distributed_optimizer(optimizer, replicas, steps, on_nonfinite)
        keras_class: Any = type(found_optimizer(optimizer))
        return object.__new__(_distributed_class(keras_class))

    def __init__(  # noqa: PLR0913  # what users may ask for, by name
        self,
        optimizer: Any,
        *,
        replicas: Replicas | None = None,
        accumulation_steps: int = 1,
        loss: Any = None,
        check_sums: bool = False,
        on_nonfinite: OnNonfinite | None = None,
    ) -> None:
        optimizer = found_optimizer(optimizer)
        optimizer_state.check_names_of(optimizer)
        on_nonfinite = checked_on_nonfinite(check_sums, on_nonfinite)
        optimizer_state.give(self, optimizer_state.copy_of(optimizer))
        distribute = functools.partial(_distributed, replicas=replicas)
        for name, inner in inner_optimizers.exchanged(optimizer, distribute).items():
            setattr(self, name, inner)  # which also tracks it, for checkpoints
        steps = checked_steps(accumulation_steps)
        settings = Settings(replicas, steps, loss, on_nonfinite)
        check_loss(settings)
        self._distribute(settings)

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the variables of the optimizer, and what accumulation needs."""
        builder = optimizer_state.builder_of(self)
        if builder is not None and not isinstance(builder, DistributedOptimizer):
            _take_over(builder, variables)
        super().build(variables)
        self._open_window(variables)

    def sums_each_step_over(self, replicas: Replicas | None) -> bool:
        """Whether each step makes an update of what these replicas have."""
        one_step = self._settings.accumulation_steps == 1
        return one_step and replicas_or_current_strategy(replicas) == self._replicas

    @property
    def can_fuse_denominator(self) -> bool:
        """Whether a step's denominator may travel with its gradients.

        Not where these have a scale of their own, which that of sums would exceed; and
        not where several optimizers share the sums.
        """
        holds_others = inner_optimizers.holds_others(self)
        return not holds_others and self._replicas.sums_are_exact

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for Keras to save, and what was wrapped has."""
        return config_of(undistributed(self), self._settings)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> DistributedOptimizer:
        """A new object with the arguments that `get_config` returned.

        What was wrapped gets its own settings from there too, so that they may be
        changed as those of any optimizer.
        """
        arguments = arguments_of(config, custom_objects)
        return DistributedOptimizer(arguments.pop("optimizer"), **arguments)

    def __reduce__(self) -> Any:
        # The class is made for what was wrapped: no new process finds its name.
        _, saved = super().__reduce__()
        return _unpickled, saved


def _unpickled(*saved: Any) -> Any:  # pickles name it by this address
    return optimizer_state.unpickled(*saved)


class _Distributed(DistributedOptimizer):
    """An update rule."""


class _DistributedLossScale(LossScaleGivenSums, DistributedOptimizer):
    """A `LossScaleOptimizer`, whose finite check must see what the inner one will."""


@functools.cache
def _distributed_class(keras_class: Any) -> Any:
    is_loss_scale = issubclass(keras_class, keras.optimizers.LossScaleOptimizer)
    step_class = _DistributedLossScale if is_loss_scale else _Distributed
    bases = (step_class, keras_class)
    made = type(
        f"Distributed{keras_class.__name__}",
        bases,
        {"__module__": DistributedOptimizer.__module__},
    )
    # Under the one name from which Keras finds `from_config` in a new process.
    name = DistributedOptimizer.__name__
    return keras.saving.register_keras_serializable("distloss", name)(made)


def _distributed(optimizer: Any, replicas: Replicas | None) -> DistributedOptimizer:
    if isinstance(optimizer, DistributedOptimizer):
        return optimizer
    return DistributedOptimizer(optimizer, replicas=replicas)


def undistributed(optimizer: Any) -> Any:
    """A view on the same state as the class that was wrapped, and so within it."""
    if not isinstance(optimizer, DistributedOptimizer):
        return optimizer
    view: Any = object.__new__(type(optimizer).__bases__[1])
    vars(view).update(vars(optimizer))
    others = inner_optimizers.exchanged(optimizer, undistributed, back=True)
    vars(view).update(others)
    return view


def _take_over(outer: Any, variables: Sequence[Any]) -> None:
    """Makes a LossScaleOptimizer that was put around one of ours one of ours.

    `compile` puts it there under mixed_float16, and it would look for overflow before
    gradients are summed. What it builds first is the optimizer within.
    """
    inner, keras_class = outer.inner_optimizer, outer.__class__
    refuse_own_ways_in(keras_class)
    optimizer_state.check_names_of(outer)
    outer.__class__ = _distributed_class(keras_class)
    outer._distribute(inner._settings)
    inner._settings = Settings(inner._settings.replicas, 1, None)
    outer._open_window(variables)

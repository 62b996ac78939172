"""The arguments of a `DistributedOptimizer`, checked."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from distloss._errors import ArgumentError, ArgumentTypeError, ContextError
from distloss._formula import denominators
from distloss._keras.optimizer_hooks import GivenSums
from distloss._keras.optimizer_state import rule_of
from distloss._types import ON_NONFINITE, OnNonfinite
from distloss.replicas import Replicas
from distloss.replicas.horovod_calls import has_wrapped


class Settings(NamedTuple):
    """What a DistributedOptimizer was asked to do.

    Attributes:
      replicas: who shares the batch, or None.
      accumulation_steps: batches per update.
      loss: by which gradients were divided, or None.
      on_nonfinite: what to do about gradients that are not finite, one of
        `ON_NONFINITE`; None where sums are not checked.
    """

    replicas: Replicas | None
    accumulation_steps: int
    loss: Any
    on_nonfinite: OnNonfinite | None = None


def found_optimizer(optimizer: Any) -> Any:
    """An optimizer of Keras 3 that can be wrapped."""
    if isinstance(optimizer, GivenSums):
        raise ArgumentTypeError(
            f"Expected an optimizer to wrap. Got optimizer={optimizer.name!r}, a "
            "DistributedOptimizer already: its gradients would be summed twice. Use "
            "it as it is."
        )
    if not isinstance(optimizer, str | dict | keras.optimizers.Optimizer):
        raise ArgumentTypeError(
            "Expected optimizer= to be a keras.optimizers.Optimizer or an identifier "
            f"such as 'adam'. Got optimizer={optimizer!r} of type "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    try:
        found = keras.optimizers.get(optimizer)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "Expected the name or config of an optimizer that keras.optimizers.get "
            f"knows, such as 'adam'. Got optimizer={optimizer!r}."
        ) from error
    inner = rule_of(found)
    if inner.gradient_accumulation_steps:
        raise ArgumentError(
            "Expected an optimizer that does not accumulate by itself: Keras gives "
            "each batch the same weight, and fails under MirroredStrategy. Got "
            f"gradient_accumulation_steps={inner.gradient_accumulation_steps}. Leave "
            "it out, and pass accumulation_steps= and loss= to DistributedOptimizer."
        )
    return found


def refuse_own_ways_in(keras_class: Any) -> None:
    """Refuses a LossScaleOptimizer that sees gradients too early."""
    for name in ("apply", "apply_gradients"):
        of_keras = getattr(keras.optimizers.LossScaleOptimizer, name)
        if getattr(keras_class, name) is not of_keras:
            raise ArgumentTypeError(
                f"Expected a LossScaleOptimizer with the {name} of Keras around a "
                f"DistributedOptimizer. Got {keras_class.__name__} with its own, which "
                "sees gradients before they are summed over replicas. Give "
                f"{keras_class.__name__}(...) to DistributedOptimizer, and not the "
                "other way round."
            )


def refuse_horovods_own(optimizer: Any) -> None:
    """Refuses an optimizer that Horovod has distributed."""
    if has_wrapped(optimizer):
        inner = rule_of(optimizer)
        raise ArgumentTypeError(
            "Expected an optimizer that Horovod has not wrapped. Got "
            f"hvd.DistributedOptimizer ({type(inner).__name__}): with Keras 3 it never "
            "reduces gradients and says nothing, so that each process trains a model "
            "of its own (https://github.com/horovod/horovod/issues/4290). Give the "
            "optimizer inside it to distloss.DistributedOptimizer(optimizer, replicas="
            "distloss.HorovodReplicas())."
        )


def is_overwritten(variable: Any) -> bool:
    """Whether Keras overwrites `variable` with what is called its gradient."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def refuse_overwritten(variables: Sequence[Any]) -> None:
    """Refuses variables of which several batches at once would give several values.

    Raises:
      ContextError: one of them is overwritten with its gradient.
    """
    found = next(filter(is_overwritten, variables), None)
    if found is not None:
        raise ContextError(
            "Expected variables whose gradients can be added up over replicas, "
            f"micro-batches and batches. Got {getattr(found, 'path', found.name)}, "
            "which Keras overwrites with its gradient, as it does with the scales of "
            "float8: each part of a batch would make another scale. Train it on one "
            "replica with microbatches=1 and accumulation_steps=1, or in bfloat16."
        )


def checked_steps(steps: Any) -> int:
    """A number of batches per update."""
    if not isinstance(steps, numbers.Integral) or isinstance(steps, bool):
        raise ArgumentTypeError(
            "Expected accumulation_steps= to be a number of batches, an int. Got "
            f"accumulation_steps={steps!r} of type {type(steps).__name__}."
        )
    if steps < 1:
        raise ArgumentError(
            "Expected accumulation_steps= to be at least 1 batch per update. Got "
            f"accumulation_steps={steps}."
        )
    return int(steps)


def checked_on_nonfinite(check_sums: Any, on_nonfinite: Any) -> OnNonfinite | None:
    """What to do about gradients that are not finite; None where sums are not checked.

    Raises:
      ArgumentTypeError: `check_sums` is no bool.
      ArgumentError: `on_nonfinite` is none of `ON_NONFINITE`, or sums are not checked.
    """
    if not isinstance(check_sums, bool):
        raise ArgumentTypeError(
            f"Expected check_sums= to be True or False. Got check_sums={check_sums!r} "
            f"of type {type(check_sums).__name__}."
        )
    if on_nonfinite is None:
        return "raise" if check_sums else None
    if on_nonfinite not in ON_NONFINITE:
        raise ArgumentError(
            f"Expected on_nonfinite= to be one of {', '.join(map(repr, ON_NONFINITE))}."
            f" Got on_nonfinite={on_nonfinite!r}."
        )
    if not check_sums:
        raise ArgumentError(
            "Expected check_sums=True beside on_nonfinite=, for the numbers that "
            "travel with sums tell on which replica a gradient was not finite. Got "
            f"check_sums=False, on_nonfinite={on_nonfinite!r}. Pass check_sums=True."
        )
    return on_nonfinite


def check_loss(settings: Settings) -> None:
    """Refuses a loss whose batches have no weight."""
    loss = settings.loss
    if loss is None and settings.accumulation_steps == 1:
        return
    if not isinstance(loss, denominators.RecordsDenominator):
        raise ArgumentTypeError(
            "Expected loss= to be the distloss.DistributedLoss whose gradients are "
            f"accumulated: batches weigh by its denominator. Got loss={loss!r} of type "
            f"{type(loss).__name__}. For several losses use distloss.prepare(model, "
            "microbatches=...), which cuts each batch into parts."
        )
    if loss.global_reduction in ("sum", "none"):
        raise ArgumentError(
            "Expected loss= to have a denominator by which batches weigh. Got "
            f"reduction={loss.global_reduction!r}. Use a mean, or distloss.prepare("
            "model, microbatches=...), which cuts each batch into parts."
        )

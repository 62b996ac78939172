"""The optimizer of tf-keras (Keras 2) that sums over replicas first."""

from __future__ import annotations

import functools
import importlib
import threading
import weakref
from typing import Any

import tensorflow as tf

from distloss._errors import ArgumentError, ArgumentTypeError, ContextError
from distloss._formula import empty, sparse
from distloss._formula.checked_sums import in_parts
from distloss._formula.step_context import current_step
from distloss._keras.tf_keras import set_inner
from distloss._types import OnNonfinite
from distloss.optimizers.monitor import Monitor
from distloss.optimizers.sum_check import SumCheck
from distloss.replicas import Replicas, replicas_or_current_strategy


class _Thread(threading.local):
    holder: Any = None  # the optimizer whose gradients were summed


_thread = _Thread()
# In which steps gradients were weighed by rows, and by which optimizers.
_weighed: Any = weakref.WeakKeyDictionary()


class SumsFirst:
    """A tf-keras optimizer whose gradients are summed over `Replicas`.

    tf-keras aggregates before it clips and looks for overflow, in this method:
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/optimizers/optimizer.py
    """

    _distloss_replicas: Replicas | None
    _distloss_check: SumCheck | None = None
    iterations: Any
    monitor: Monitor | None = None  # where what steps are like is noted

    def check_sums_and(
        self, on_nonfinite: OnNonfinite, *, is_scaled: bool = False
    ) -> None:
        """Checks sums from now on, as `DistributedOptimizer` does."""
        if on_nonfinite == "skip":
            raise ArgumentError(
                "Expected on_nonfinite='raise' or 'warn' with an optimizer of tf-keras."
                " Got on_nonfinite='skip'. Put a LossScaleOptimizer around it, which "
                "leaves out such updates, or use a Keras 3 optimizer."
            )
        check = SumCheck(on_nonfinite, is_scaled=is_scaled)
        vars(self)["_distloss_check"] = check

    @property
    def nonfinite_steps(self) -> int:
        """How many checked updates had gradients that were not finite."""
        check = self._distloss_check
        return 0 if check is None else check.nonfinite_steps

    def apply_gradients(
        self, grads_and_vars: Any, name: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """What the rule makes of the sums, which it also sees if it overrides this."""
        pairs = list(grads_and_vars)
        is_done = kwargs.get("skip_gradients_aggregation", False) or not kwargs.get(
            "experimental_aggregate_gradients", True
        )
        has_any = any(gradient is not None for gradient, _ in pairs)
        # The name only where it was given, for an override may not take one.
        given = (name, *args) if args or name is not None else ()
        parent: Any = super()
        if args or is_done or not has_any or _thread.holder is self:
            result = parent.apply_gradients(pairs, *given, **kwargs)
            if has_any:
                _check_weighed(self)
            return result
        sums = iter(self.aggregate_gradients(pairs))
        pairs = [pair if pair[0] is None else next(sums) for pair in pairs]
        outer, _thread.holder = _thread.holder, self
        try:
            return parent.apply_gradients(pairs, *given, **kwargs)
        finally:
            _thread.holder = outer

    def aggregate_gradients(self, grads_and_vars: Any) -> list[Any]:
        """The pairs that have a gradient, with the sums of these."""
        pairs = [pair for pair in grads_and_vars if pair[0] is not None]
        if _thread.holder is self:
            return pairs
        if not pairs:  # which tf-keras refuses
            return list(grads_and_vars)
        replicas = replicas_or_current_strategy(self._distloss_replicas)
        name = f"gradients_{type(self).__bases__[1].__name__}"
        local = sparse.to_send([sparse.shaped(*pair) for pair in pairs], replicas)
        # tf-keras adds slices up too, but after it has clipped them
        variables = [variable for _, variable in pairs]
        sums = sparse.added_up(self._sums_of(local, replicas, name, variables))
        if self.monitor is not None:
            self.monitor.note(sums, 1.0)  # a LossScaleOptimizer has unscaled them
        return [(s, variable) for s, (_, variable) in zip(sums, pairs, strict=True)]

    _aggregate_gradients = aggregate_gradients  # of tf_keras.optimizers.legacy

    def _sums_of(
        self, local: list[Any], replicas: Replicas, name: str, variables: list[Any]
    ) -> list[Any]:
        """The sums over replicas; where rows travel with them, the means over rows."""
        step = current_step()
        sum_parts = functools.partial(self._sums_of_parts, replicas, name, variables)
        if step is None or replicas.count() == 1:
            return sum_parts([local])[0]
        if step.fused is None:
            local = empty.zeros_without_rows(local, step.rows)
            return sum_parts([local])[0]
        _weighed.setdefault(step, set()).add(id(self))
        weighed, vector = step.fused.to_sum(local)
        sums, [vector] = sum_parts([weighed, [vector]])
        sums = step.fused.divided(sums, vector)
        # which are in the dtype in which they were summed, that of the variables here
        return [
            tf.cast(s, gradient.dtype) for s, gradient in zip(sums, local, strict=True)
        ]

    def _sums_of_parts(
        self,
        replicas: Replicas,
        name: str,
        variables: list[Any],
        parts: list[list[Any]],
    ) -> list[list[Any]]:
        check = self._distloss_check
        if check is None:
            sums = replicas.sum_gradients([x for part in parts for x in part], name)
            return in_parts(sums, parts)
        checked = check.sums(replicas, parts, name, variables, self.iterations)
        with tf.control_dependencies([checked.may_update]):
            return tf.nest.map_structure(
                tf.identity, checked.parts, expand_composites=True
            )


def _check_weighed(optimizer: Any) -> None:
    """Raises ContextError where gradients came to an update unweighed."""
    step = current_step()
    is_weighed = getattr(step, "fused", None) is not None
    if is_weighed and id(optimizer) not in _weighed.get(step, ()):
        raise ContextError(
            "Expected an optimizer that sums the gradients of replicas, weighed by "
            "rows, in a step of a prepared model. Got gradients that were summed "
            f"before, for {type(optimizer).__name__}. Leave out "
            "skip_gradients_aggregation= and experimental_aggregate_gradients=, or "
            "pass what optimizer.aggregate_gradients(...) returns."
        )


def distributed_optimizer(
    optimizer: Any,
    replicas: Replicas | None,
    accumulation_steps: int,
    on_nonfinite: OnNonfinite | None = None,
    *,
    is_scaled: bool = False,
) -> Any:
    """An optimizer of the same class and state that sums over `replicas` first."""
    replicas_or_current_strategy(replicas)  # raises for a wrong argument
    if accumulation_steps != 1:
        raise ArgumentError(
            "Expected accumulation_steps=1 with an optimizer of tf-keras. Got "
            f"accumulation_steps={accumulation_steps}. Use distloss.prepare(model, "
            "microbatches=...), which cuts each batch into parts, or a Keras 3 "
            "optimizer."
        )
    optimizer = _found(optimizer)
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:  # a LossScaleOptimizer, which asks the inner one to sum
        _refuse_own_apply_gradients(type(optimizer))
        ours = distributed_optimizer(inner, replicas, 1, on_nonfinite, is_scaled=True)
        set_inner(optimizer, ours)
        return optimizer
    keras_class: Any = type(optimizer)
    made: Any = object.__new__(_class_of(keras_class))
    vars(made).update(vars(optimizer))
    vars(made)["_distloss_replicas"] = replicas
    if on_nonfinite is not None:
        made.check_sums_and(on_nonfinite, is_scaled=is_scaled)
    return made


def _refuse_own_apply_gradients(scaled_class: Any) -> None:
    if not scaled_class.apply_gradients.__module__.startswith("tf_keras."):
        raise ArgumentTypeError(
            "Expected a LossScaleOptimizer with the apply_gradients of tf-keras. Got "
            f"{scaled_class.__name__} with its own, which sees gradients before they "
            "are summed over replicas. Move what it does into the inner optimizer."
        )


def _found(optimizer: Any) -> Any:
    optimizers = importlib.import_module("tf_keras").optimizers
    bases = (optimizers.Optimizer, optimizers.legacy.Optimizer)
    if not isinstance(optimizer, (str, dict, *bases)):
        raise ArgumentTypeError(
            "Expected optimizer= to be a tf_keras.optimizers.Optimizer or an "
            f"identifier such as 'adam'. Got optimizer={optimizer!r} of type "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}."
        )
    try:
        return optimizers.get(optimizer)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "Expected the name or config of an optimizer that tf_keras.optimizers.get "
            f"knows, such as 'adam'. Got optimizer={optimizer!r}."
        ) from error


@functools.cache
def _class_of(keras_class: Any) -> Any:
    if issubclass(keras_class, SumsFirst):
        raise ArgumentTypeError(
            f"Expected an optimizer to wrap. Got {keras_class.__name__}, distributed "
            "already: its gradients would be summed twice. Use it as it is."
        )
    # Under the address of the class that was wrapped, as which tf-keras saves it.
    address = {"__module__": keras_class.__module__}
    return type(keras_class.__name__, (SumsFirst, keras_class), address)

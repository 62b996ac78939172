"""How the gradients of a batch become an update: summed first, then by Keras' rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._formula import denominators, sparse
from distloss._formula.checked_sums import in_parts
from distloss._formula.step_context import current_step
from distloss._keras import optimizer_state
from distloss._keras.optimizer_hooks import GivenSums, LossScaleGivenSums
from distloss._types import Gradient, OnNonfinite
from distloss.optimizers.arguments import (
    Settings,
    is_overwritten,
    refuse_overwritten,
)
from distloss.optimizers.monitor import Monitor
from distloss.optimizers.sum_check import SumCheck
from distloss.optimizers.window import Window
from distloss.replicas import Replicas, replicas_or_current_strategy


class MicroSteps(GivenSums):
    """Sums the gradients of batches, and updates once in `accumulation_steps`."""

    _settings: Settings
    _window: Window | None
    _check: SumCheck | None
    monitor: Monitor | None = None  # where what steps are like is noted

    def _distribute(self, settings: Settings) -> None:
        replicas_or_current_strategy(settings.replicas)  # raises for a wrong argument
        self._settings = settings
        self._window = None
        self._check = None
        if settings.on_nonfinite is not None:
            self.check_sums_and(settings.on_nonfinite)
        if self.built:
            self._open_window(optimizer_state.variables_of(self))

    def check_sums_and(self, on_nonfinite: OnNonfinite) -> None:
        """Checks sums from now on, as the arguments of this name say."""
        self._settings = self._settings._replace(on_nonfinite=on_nonfinite)
        is_scaled = isinstance(self, LossScaleGivenSums)
        self._check = SumCheck(on_nonfinite, is_scaled=is_scaled)

    @property
    def nonfinite_steps(self) -> int:
        """How many updates had gradients that were not finite, where sums are checked.

        Those of a `LossScaleOptimizer` are among them, and no error.
        """
        return 0 if self._check is None else self._check.nonfinite_steps

    @property
    def _replicas(self) -> Replicas:
        return replicas_or_current_strategy(self._settings.replicas)

    def _open_window(self, variables: Sequence[Any]) -> None:
        if self._settings.accumulation_steps > 1 and self._window is None:
            self._window = Window(variables)

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Sum over replicas and update, as `keras.optimizers.Optimizer`.

        A rule that overrides this method sees the sums.
        """
        pairs = list(grads_and_vars)
        if self._holds_sums or not pairs:
            return super().apply_gradients(pairs)
        gradients, variables = zip(*pairs, strict=True)
        self._build_for(variables)
        self._step(self._apply_pairs, gradients, variables)
        return self.iterations

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Sum over replicas and update, as `keras.optimizers.Optimizer`.

        A rule that overrides this method sees the sums.
        """
        is_unknown = trainable_variables is None and not self.built
        if self._holds_sums or not len(grads) or is_unknown:
            super().apply(grads, trainable_variables)
            return
        if trainable_variables is None:
            trainable_variables = optimizer_state.variables_of(self)
        self._build_for(trainable_variables)
        self._sum_and_apply(grads, trainable_variables)

    def _build_for(self, variables: Any) -> None:
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(list(variables))
        optimizer_state.check_was_built_for(self, variables)

    def _apply_pairs(self, gradients: Any, variables: Any) -> None:
        with self._updating():
            super().apply_gradients(zip(gradients, variables, strict=True))

    def _apply_summed(self, gradients: Any, variables: Any) -> None:
        with self._updating():
            super().apply(gradients, variables)

    def _sum_and_apply(self, gradients: Any, variables: Any) -> None:
        if variables is None:
            variables = optimizer_state.variables_of(self)
        self._step(self._apply_summed, gradients, variables)

    def _step(
        self,
        apply: Callable[[list[Gradient | None], list[Any]], None],
        gradients: Sequence[Gradient | None],
        variables: Sequence[Any],
    ) -> None:
        """One micro-step: `apply` of summed gradients, once in `accumulation_steps`."""
        gradients, variables = list(gradients), list(variables)
        if self._window is not None or self._replicas.count() > 1:
            refuse_overwritten(variables)
        if self._window is None:
            self._update(apply, gradients, variables)
            return
        optimizer_state.check_has_any(self, gradients, variables)
        denominator = denominators.recorded_denominator(self._settings.loss)
        at = optimizer_state.indices_of(self, variables)
        local = map(sparse.shaped, gradients, variables)
        self._window.add(dict(zip(at, local, strict=True)), denominator)
        is_full = self._window.batches >= self._settings.accumulation_steps
        update = functools.partial(self._update_from, self._window, apply)
        self._replicas.call_if(is_full, update)

    def _update_from(self, window: Window, apply: Callable[..., None]) -> None:
        gradients = window.shares()
        known = optimizer_state.variables_of(self)
        variables = [known[i] for i in gradients]
        self._update(apply, list(gradients.values()), variables)
        window.clear()

    def flush(self) -> None:
        """Makes an update of what is accumulated; does nothing if that is nothing.

        Call it outside `strategy.run`, for example in `on_epoch_end` of a
        `keras.callbacks.LambdaCallback`.
        """
        if self._window is None:
            return
        update = functools.partial(self._update_from, self._window, self._apply_pairs)
        has_batches = self._window.batches > 0
        strategy = optimizer_state.strategy_of(self)
        strategy.run(self._replicas.call_if, (has_batches, update))

    def _update(
        self,
        apply: Callable[[list[Gradient | None], list[Any]], None],
        local: list[Gradient | None],
        variables: list[Any],
    ) -> None:
        """`apply` of the sums over replicas, if they are right or nobody asks."""
        sums, may_update = self._summed(local, variables)
        if self._check is None or may_update is None:
            apply(sums, variables)
        else:
            self._check.update(self._replicas, apply, sums, variables, may_update)

    def _summed(
        self, local: list[Gradient | None], variables: list[Any]
    ) -> tuple[list[Gradient | None], tf.Tensor | None]:
        """The sums over replicas of the gradients that are not None.

        And whether they may make an update: None where that is not checked.
        """
        sums = list(local)
        at = [
            i
            for i, variable in enumerate(variables)
            if local[i] is not None and not is_overwritten(variable)
        ]
        present = [_as_gradient(local[i], variables[i]) for i in at]
        factor = self.loss_scale_factor  # by which Keras cannot divide slices
        densely = factor is not None
        of_gradients = [variables[i] for i in at]
        few = sparse.to_send(present, self._replicas)
        summed, may_update = self._sums_of(few, of_gradients)
        added_up = sparse.added_up(summed, densely=densely)
        if self.monitor is not None and present:
            scale = getattr(self, "dynamic_scale", factor or 1.0)
            self.monitor.note(added_up, scale)
        for i, gradient in zip(at, added_up, strict=True):
            sums[i] = gradient
        return sums, may_update

    def _sums_of(
        self, local: list[Gradient], variables: list[Any]
    ) -> tuple[list[Gradient], tf.Tensor | None]:
        """The sums over replicas; where the denominator travels with them, divided.

        And whether they may make an update.
        """
        fused = getattr(current_step(), "fused", None)
        if fused is None:
            [sums], may_update = self._sums_of_parts([local], variables)
        else:
            local, vector = fused.to_sum(local)
            parts = [local, [vector]]
            [sums, [vector]], may_update = self._sums_of_parts(parts, variables)
            sums = fused.divided(sums, vector)
        return sums, may_update

    def _sums_of_parts(
        self, parts: list[list[Gradient]], variables: list[Any]
    ) -> tuple[list[list[Gradient]], tf.Tensor | None]:
        name = f"gradients_{type(self).__bases__[1].__name__}"
        if self._check is not None and variables:
            step = self.iterations.value
            checked = self._check.sums(self._replicas, parts, name, variables, step)
            return checked.parts, checked.may_update
        sums = self._replicas.sum_gradients([x for part in parts for x in part], name)
        return in_parts(sums, parts), None


def _as_gradient(gradient: Any, variable: Any) -> Gradient:
    if not isinstance(gradient, tf.IndexedSlices):
        gradient = tf.convert_to_tensor(gradient)
    return sparse.shaped(gradient, variable)

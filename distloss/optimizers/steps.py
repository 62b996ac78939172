"""How the gradients of a batch become an update: summed first, then by Keras' rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from distloss._formula import denominators, sparse
from distloss._formula.step_context import current_step
from distloss._keras import optimizer_state
from distloss._keras.optimizer_hooks import GivenSums
from distloss._types import Gradient
from distloss.optimizers.arguments import Settings
from distloss.optimizers.monitor import Monitor
from distloss.optimizers.window import Window
from distloss.replicas import Replicas, replicas_or_current_strategy


class MicroSteps(GivenSums):
    """Sums the gradients of batches, and updates once in `accumulation_steps`."""

    _settings: Settings
    _window: Window | None
    monitor: Monitor | None = None  # where what steps are like is noted

    def _distribute(self, settings: Settings) -> None:
        replicas_or_current_strategy(settings.replicas)  # raises for a wrong argument
        self._settings = settings
        self._window = None
        if self.built:
            self._open_window(optimizer_state.variables_of(self))

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
        if self._window is None:
            apply(self._summed(gradients, variables), variables)
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
        apply(self._summed(list(gradients.values()), variables), variables)
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

    def _summed(
        self, local: list[Gradient | None], variables: list[Any]
    ) -> list[Gradient | None]:
        """The sums over replicas of the gradients that are not None."""
        sums = list(local)
        at = [
            i
            for i, variable in enumerate(variables)
            if local[i] is not None
            and not getattr(variable, "overwrite_with_gradient", False)
        ]
        present = [_as_gradient(local[i], variables[i]) for i in at]
        factor = self.loss_scale_factor  # by which Keras cannot divide slices
        densely = factor is not None
        added_up = sparse.added_up(self._sums_of(present), densely=densely)
        if self.monitor is not None and present:
            scale = getattr(self, "dynamic_scale", factor or 1.0)
            self.monitor.note(added_up, scale)
        for i, gradient in zip(at, added_up, strict=True):
            sums[i] = gradient
        return sums

    def _sums_of(self, local: list[Gradient]) -> list[Gradient]:
        """The sums over replicas; where the denominator travels with them, divided."""
        name = f"gradients_{type(self).__bases__[1].__name__}"
        fused = getattr(current_step(), "fused", None)
        if fused is None:
            sums = self._replicas.sum_gradients(local, name)
        else:
            local, vector = fused.to_sum(local)
            *sums, vector = self._replicas.sum_gradients([*local, vector], name)
            sums = fused.divided(sums, vector)
        return sums


def _as_gradient(gradient: Any, variable: Any) -> Gradient:
    if isinstance(gradient, tf.IndexedSlices):
        return sparse.shaped(gradient, variable)
    return tf.convert_to_tensor(gradient)

"""The optimizers that an optimizer of Keras 3 holds, each exchanged for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from distloss._keras.private_names import of_optimizers as names

# Not in every Keras 3.
_MULTI_OPTIMIZER: Any = getattr(keras.optimizers, "MultiOptimizer", ())
_HOLD_OTHERS = (keras.optimizers.LossScaleOptimizer, _MULTI_OPTIMIZER)


def holds_others(optimizer: Any) -> bool:
    """Whether `optimizer` leaves updates to others."""
    return isinstance(optimizer, _HOLD_OTHERS)


def exchanged(
    optimizer: Any, change: Callable[[Any], Any], *, back: bool = False
) -> dict[str, Any]:
    """The attributes in which `optimizer` holds others, with `change` of each of these.

    Args:
      optimizer: of any class of Keras 3.
      change: makes the optimizer that shall take the place of another.
      back: whether `change` undoes another change. A function that chooses among
        optimizers is then the one that the user wrote.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return {"inner_optimizer": change(optimizer.inner_optimizer)}
    if not isinstance(optimizer, _MULTI_OPTIMIZER):
        return {}
    changed = _Changed(change)
    others = [changed(inner) for inner in optimizer.optimizers]
    chosen: Any = names.OPTIMIZER_MAP.of(optimizer)
    names.INNER_OPTIMIZERS.check(optimizer)
    if isinstance(chosen, _Choice):
        chosen = chosen.choose
    if isinstance(chosen, keras.optimizers.OptimizerMap):
        held = names.OPTIMIZERS_BY_NAME.of(chosen)
        by_name = {name: changed(x) for name, x in held.items()}
        default = changed(chosen.default_optimizer)
        chosen = keras.optimizers.OptimizerMap(default, by_name)
    elif not back:
        chosen = _Choice(chosen, changed)
    return {names.INNER_OPTIMIZERS.name: others, names.OPTIMIZER_MAP.name: chosen}


class _Changed:
    """Optimizers, each changed once."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change
        self._made: dict[int, tuple[Any, Any]] = {}  # both, so that ids stay taken

    def __call__(self, optimizer: Any) -> Any:
        if id(optimizer) not in self._made:
            self._made[id(optimizer)] = optimizer, self._change(optimizer)
        return self._made[id(optimizer)][1]


class _Choice:
    """A function that chooses the optimizer of a variable, and this one changed."""

    def __init__(self, choose: Callable[[Any], Any], changed: _Changed) -> None:
        self.choose, self._changed = choose, changed

    def __call__(self, variable: Any) -> Any:
        chosen = self.choose(variable)
        is_optimizer = isinstance(chosen, keras.optimizers.Optimizer)
        return self._changed(chosen) if is_optimizer else chosen  # Keras refuses it

"""What a step that a user wrote calls in Keras, and what of it can be replaced.

Keras' losses divide by the number of replicas, in one function that all of them call;
so do what layers add and what loss trackers read. In a step whose gradients are weighed
by rows they must not. Each function is replaced once, for good, and asks at each call
whether it is in such a step; anywhere else it is Keras' own.
https://github.com/keras-team/keras/blob/v3.12.0/keras/src/losses/loss.py
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from distloss._keras.model_hooks import Hook
from distloss._keras.private_names import of_layers_and_losses as names


def replace_reductions(reduced: Callable[..., Any], scaled: Callable[..., Any]) -> None:
    """Puts two functions in the place of those of Keras, which they get first.

    Args:
      reduced: `(of_keras, values, sample_weight, mask, reduction, dtype)`, what a loss
        makes of its element losses.
      scaled: `(of_keras, value)`, what divides by the number of replicas, or
        multiplies by it.
    """
    for name, ours in (
        (names.REDUCE_WEIGHTED_VALUES, reduced),
        (names.SCALE_LOSS, scaled),
        (names.UNSCALE_LOSS, scaled),
    ):
        if name.is_due and not isinstance(name.found(), Hook):
            name.put(name.owners(), Hook(ours, name.found()))


def watch_updates(check: Callable[[Any], None]) -> None:
    """Calls `check(optimizer)` before any Keras optimizer makes an update."""
    watched = keras.optimizers.Optimizer
    if hasattr(watched.apply, "is_watched"):
        return
    own = vars(watched).get("apply")

    @functools.wraps(watched.apply)
    def apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        check(optimizer)
        if own is not None:
            return own(optimizer, *args, **kwargs)
        # Looked up at each call: others may replace it for a while, as the audit does.
        return super(watched, optimizer).apply(*args, **kwargs)

    apply.is_watched = True  # type: ignore[attr-defined]
    watched.apply = apply


def watch_means(check: Callable[[Any, Any, Any], None]) -> None:
    """Calls `check(metric, values, sample_weight)` before any Keras mean takes them."""
    of_keras = keras.metrics.Mean.update_state
    if hasattr(of_keras, "is_watched"):
        return

    @functools.wraps(of_keras)
    def update_state(metric: Any, values: Any, sample_weight: Any = None) -> Any:
        check(metric, values, sample_weight)
        return of_keras(metric, values, sample_weight=sample_weight)

    update_state.is_watched = True  # type: ignore[attr-defined]
    keras.metrics.Mean.update_state = update_state


def metrics_in(held: list[Any]) -> list[Any]:
    """All metrics among `held`, and in the models and layers there, each once."""
    known: dict[int, Any] = {}
    for one in held:
        for metric in _metrics_of(one):
            for inner in _with_inner(metric):
                known.setdefault(id(inner), inner)
    return list(known.values())


def _metrics_of(held: Any) -> list[Any]:
    if isinstance(held, keras.metrics.Metric):
        return [held]
    layers = names.FLATTEN_LAYERS.of(held)()
    return [*held.metrics, *itertools.chain(*map(names.METRICS.of, layers))]


def _with_inner(metric: Any) -> Iterator[Any]:
    yield metric
    for inner in getattr(metric, "metrics", None) or ():  # those that were compiled
        if inner is not metric:
            yield from _with_inner(inner)


def takes_means(metric: Any) -> bool:
    """Whether `metric` takes the mean of the values that it is given."""
    return type(metric).update_state is keras.metrics.Mean.update_state

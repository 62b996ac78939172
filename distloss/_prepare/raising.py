"""Lets `fit` raise what a check of sums has found, as the error that it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distloss._keras.model_hooks import Hook
from distloss.optimizers.sum_errors import sum_errors


def raise_from_fit(model: Any) -> None:
    """Lets the function that `model`, of either Keras, makes of its step raise them."""
    model.make_train_function = Hook(_made, model)
    model.train_function = None


def _made(model: Any, force: bool = False) -> Any:
    kept = model.train_function
    if kept is not None and not force:
        return kept
    type(model).make_train_function(model, force=True)
    model.train_function = Hook(_called, model.train_function)
    return model.train_function


def _called(of_keras: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with sum_errors():
        return of_keras(*args, **kwargs)

"""What Keras notes on tensors, in private attributes."""

from __future__ import annotations

from typing import Any, TypeVar

from distloss._keras.private_names.of_layers_and_losses import (
    GET_MASK,
    LOGITS,
    SET_MASK,
)
from distloss._keras.private_names.of_others import MASK, UNCONDITIONAL

_Tensor = TypeVar("_Tensor")


def mask_of(tensor: Any) -> Any:
    """The mask that a layer attached to what it gave; None without one."""
    noted = getattr(tensor, MASK.name, None)  # so in tf-keras, and before Keras 3.6
    if noted is None and GET_MASK.is_due:
        return GET_MASK.found()(tensor)
    return noted


def notes_on(tensor: Any) -> dict[str, Any]:
    """Other tensors of the same rows that Keras noted on this one, by their names."""
    # Softmax and sigmoid note the logits that they were given, for crossentropies.
    logits = getattr(tensor, LOGITS.name, None)
    found = {MASK.name: mask_of(tensor), LOGITS.name: logits}
    return {name: value for name, value in found.items() if value is not None}


def note_on(tensor: _Tensor, notes: dict[str, Any]) -> _Tensor:
    """`tensor`, with these notes."""
    for name, value in notes.items():
        if name == MASK.name and SET_MASK.is_due:
            SET_MASK.found()(tensor, value)
        else:
            setattr(tensor, name, value)
    return tensor


def is_of_weights(loss: Any) -> bool:
    """Whether tf-keras knows that an added loss depends on weights alone.

    It marks so what it gets from a callable, such as a regulariser.
    """
    return bool(getattr(loss, UNCONDITIONAL.name, False))

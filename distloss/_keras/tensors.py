"""What Keras notes on tensors, in private attributes."""

from __future__ import annotations

from typing import Any, TypeVar

_Tensor = TypeVar("_Tensor")

# Softmax and sigmoid note the logits that they were given, for crossentropies.
_NOTES = ("_keras_mask", "_keras_logits")


def mask_of(tensor: Any) -> Any:
    """The mask that a layer attached to what it gave; None without one."""
    return getattr(tensor, "_keras_mask", None)


def notes_on(tensor: Any) -> dict[str, Any]:
    """Other tensors of the same rows that Keras noted on this one, by their names."""
    found = {name: getattr(tensor, name, None) for name in _NOTES}
    return {name: value for name, value in found.items() if value is not None}


def note_on(tensor: _Tensor, notes: dict[str, Any]) -> _Tensor:
    """`tensor`, with these notes."""
    for name, value in notes.items():
        setattr(tensor, name, value)
    return tensor


def is_of_weights(loss: Any) -> bool:
    """Whether tf-keras knows that an added loss depends on weights alone.

    It marks so what it gets from a callable, such as a regulariser.
    """
    return bool(getattr(loss, "_unconditional_loss", False))

"""What callbacks are given, checked."""

from __future__ import annotations

from typing import Any

from distloss._errors import ArgumentError


def checked_every(every: Any) -> int:
    """A number of batches, which an argument `every=` must be."""
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ArgumentError(
            "Expected every= to be at least 1 batch from one to the next, an int. Got "
            f"every={every!r}."
        )
    return every

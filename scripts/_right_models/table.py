"""The table of kinds, to which each adds itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from _right_models.draws import Draw

EVERY = ("even", "uneven", "empty")


@dataclass(frozen=True)
class Kind:
    """Right steps of one kind.

    Attributes:
      name: in tables.
      step: `(draw)` to `(model, batch)`, as a `build` returns them.
      why: it is right, and for which splits.
      splits: for which it is.
      engine: of the audit.
    """

    name: str
    step: Callable[[Draw], Any]
    why: str
    splits: tuple[str, ...]
    engine: str


KINDS: dict[str, Kind] = {}


def right(*splits: str, engine: str = "strategy") -> Callable[[Any], Any]:
    """Puts a function into the table; its docstring says why it is right.

    Args:
      splits: for which it is; none for all.
      engine: of the audit.
    """

    def noted(step: Any) -> Any:
        name, why = step.__name__, (step.__doc__ or "").strip()
        KINDS[name] = Kind(name, step, why, splits or EVERY, engine)
        return step

    return noted

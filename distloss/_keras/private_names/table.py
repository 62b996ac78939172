"""All private names, and a look at whether the installed releases have them."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass

from distloss._errors import BackendError
from distloss._keras.private_names import (
    of_audit,
    of_layers_and_losses,
    of_models,
    of_optimizers,
    of_others,
)
from distloss._keras.private_names.examples import example_of
from distloss._keras.private_names.private_name import Group, PrivateName

_MODULES = (of_models, of_layers_and_losses, of_optimizers, of_others, of_audit)
TABLE: tuple[PrivateName, ...] = tuple(
    value
    for module in _MODULES
    for value in vars(module).values()
    if isinstance(value, PrivateName)
)


@dataclass(frozen=True)
class Looked:
    """What the installed release has of the names of one group.

    Attributes:
      group: the names.
      due: how many of them this release must have.
      missing: a sentence for each that it does not.
    """

    group: Group
    due: int
    missing: tuple[str, ...]


def looked_for() -> list[Looked]:
    """What the installed releases have, group by group.

    Of packages that are not installed there is nothing.
    """
    found = []
    for group, names in itertools.groupby(TABLE, lambda name: name.group):
        if importlib.util.find_spec(group.package.module) is not None:
            due = [name for name in names if name.is_due and not name.is_optional]
            missing = tuple(filter(None, map(_problem_of, due)))
            found.append(Looked(group, len(due), missing))
    return found


def _problem_of(name: PrivateName) -> str:
    try:
        name.check(example_of(name.owner) if name.is_of_instances else None)
    except BackendError as error:
        return str(error)
    except Exception as error:  # of the package, where it makes an object
        return str(name.missing(f"fails on the way to it: {error!r}"))
    return ""

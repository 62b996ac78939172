"""Mistakes planted in right steps, each with the name of its cause.

A mutation is a function `(draw, planted)` to a step, which is right where nothing is
planted; what is drawn is the same in both. Which cause is the right answer, and which
may be named beside it, was written down before the audit was asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from _right_models.audited import Case
from _right_models.draws import Draw
from _right_models.table import EVERY

MUTATIONS: dict[str, "Mutation"] = {}


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes:
      name: in tables.
      step: `(draw, planted)` to `(model, batch)`.
      causes: each of which is the right answer.
      beside: what the same mistake shows as well, on other splits or in what is shown.
      shows: where it can be seen: in the "update", in a "later" one, in what is
        "shown", with an "infinite" row, or in who gets which "rows".
    """

    name: str
    step: Callable[[Draw, bool], Any]
    causes: tuple[str, ...]
    beside: tuple[str, ...]
    shows: str


def plants(*causes: str, beside: tuple[str, ...] = (), shows: str = "update") -> Any:
    """Puts a function into the table of mutations."""

    def noted(step: Any) -> Any:
        name = step.__name__
        MUTATIONS[name] = Mutation(name, step, causes, beside, shows)
        return step

    return noted


def mutation_of(seed):
    """The mutation of this seed: each in turn."""
    return MUTATIONS[sorted(MUTATIONS)[seed % len(MUTATIONS)]]


def case_of(seed):
    """The mutant of this seed."""
    of = mutation_of(seed)
    return Case(seed, of.name, of.name, EVERY, "strategy", of.causes, of.beside)


def step_of(seed, *, planted=True):
    """What `build` returns for this seed, with the mistake or without."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    return mutation_of(seed).step(Draw(seed), planted)

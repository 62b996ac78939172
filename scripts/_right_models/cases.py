"""The case of each seed: importing a module of kinds puts them into the tables."""

from _right_models import (
    kinds,
    mistakes,
    mistakes_compiled,
    mistakes_updates,
    mutants,
)
from _right_models.audited import Case
from _right_models.table import KINDS

MISTAKES = (mistakes, mistakes_compiled, mistakes_updates)


def case_of(seed, is_mutant):
    """The right step, or the mutant, of this seed."""
    if is_mutant:
        return mutants.case_of(seed)
    kind = kinds.kind_of(seed)
    return Case(seed, "", kind.name, kind.splits, kind.engine)


def step_of(case):
    """What `build` returns for it."""
    return (mutants if case.mutation else kinds).step_of(case.seed)


def check(names, is_mutant):
    """Raises SystemExit if one of `names` is no kind, or no mutation."""
    known = mutants.MUTATIONS if is_mutant else KINDS
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SystemExit(f"Expected some of {', '.join(known)}. Got {unknown}.")

"""By what factor each loss arrives at the weights: the one table of who divides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from distloss._lint.facts import Applied, Compiled, Facts, Returned
from distloss._lint.quantities import (
    ALL,
    CONSTANT,
    GLOBAL,
    LOCAL,
    NOMINAL,
    REPLICAS,
    SUM,
    WEIGHT,
    Rows,
    Scalar,
    Step,
    mean,
    terms_of,
)
from distloss._lint.values import Instance, Made, Place, Value


@dataclass(frozen=True)
class Term:
    """A loss, or a term of one, on its way to the weights.

    Attributes:
      scalar: what the program computes.
      replicas: the power of the number of replicas in the sum over replicas.
      sure: whether there may be several replicas, or it cannot be seen.
      engine: who adds up: `"strategy"` or `"horovod"`.
      compiled: the call of `compile` that it was given to, or None.
      accumulated: whether gradients of micro-batches were added up.
    """

    scalar: Scalar
    replicas: int
    sure: bool
    engine: str
    compiled: Place | None = None
    accumulated: bool = False

    @property
    def is_sum(self) -> bool:
        """Whether it is made of the losses of rows."""
        return self.scalar.numerator in (SUM, ALL) and self.scalar.of_model

    @property
    def is_local_mean(self) -> bool:
        """Whether it is divided by what this replica holds."""
        counts = self.scalar.power(LOCAL) + self.scalar.power(WEIGHT)
        return self.is_sum and counts == -1 and not self.scalar.power(GLOBAL)

    @property
    def is_share(self) -> bool:
        """Whether it is divided by what all replicas hold."""
        known = self.scalar.power(GLOBAL) + self.scalar.power(NOMINAL)
        return self.is_sum and known == -1 and not self.scalar.power(LOCAL)

    @property
    def is_by_constant(self) -> bool:
        """Whether a sum is divided by nothing but a constant."""
        others = (LOCAL, WEIGHT, GLOBAL, NOMINAL)
        is_bare = not any(self.scalar.power(base) for base in others)
        return self.is_sum and is_bare and self.scalar.power(CONSTANT) < 0

    @property
    def is_bare_sum(self) -> bool:
        """Whether nothing divides it but, maybe, the number of replicas."""
        bases = {base for base, _ in self.scalar.powers}
        return self.is_sum and bases <= {SUM, ALL, REPLICAS}


def terms(facts: Facts) -> Iterator[Term]:
    """Each loss of each update, with its factor."""
    for update in facts.applied:
        # A prepared model weighs the gradients of its own step by rows.
        if update.where.model is None or not is_prepared(update.where.model):
            yield from _of_update(update)
    for model in facts.compiled:
        if model.where.engine == "strategy" and not is_prepared(model.model):
            yield from _of_compiled(model)
    for returned in facts.returned:
        if returned.method == "compute_loss" and not is_prepared(returned.model):
            yield from _of_returned(returned)


def is_prepared(model: Value) -> bool:
    """Whether it went through `distloss.prepare`."""
    return isinstance(model, (Made, Instance)) and "prepared" in model.state


def _of_update(update: Applied) -> Iterator[Term]:
    added = _exponent(update)
    if added is None:
        return
    for loss in terms_of(update.gradient.loss):
        one = replace(loss, of_model=True)  # or it had no gradient
        yield Term(
            one,
            _power(one) + added,
            update.where.sure,
            update.where.engine,
            accumulated=update.gradient.accumulated,
        )


def _exponent(update: Applied) -> int | None:
    """The power of N that reduction and optimizer bring in; None if nobody adds up."""
    reduced = update.gradient.reduced
    if not update.where.engine:
        return None
    if not update.sums:
        return {"sum": 0, "mean": -1}.get(reduced)
    # The optimizer adds up what is the same on all replicas already.
    return 1 if reduced == "sum" else 0


def _power(one: Scalar) -> int:
    # The gradient of a sum over replicas is summed over replicas once more.
    return one.power(REPLICAS) + (one.numerator == ALL)


def _of_compiled(model: Compiled) -> Iterator[Term]:
    for value in model.losses:
        if isinstance(value, Rows):  # which Keras reduces, and divides by N
            whole = mean(value, Step("compiled keras loss", model.place))
            yield _compiled_term(model, whole, _power(whole) - 1)
        else:
            for one in terms_of(value):
                yield _compiled_term(model, one, _power(one))


def _compiled_term(model: Compiled, one: Scalar, replicas: int) -> Term:
    return Term(one, replicas, model.where.sure, "strategy", compiled=model.place)


def _of_returned(returned: Returned) -> Iterator[Term]:
    if returned.where.engine != "strategy":
        return
    for one in terms_of(returned.value):
        yield Term(one, _power(one), returned.where.sure, "strategy")

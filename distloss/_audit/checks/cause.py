"""A cause in words: its name, what it means, what to change; also for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from distloss._audit.report.findings import Finding


@dataclass(frozen=True)
class Model:
    """What is known of the model, for advice that it can take.

    Attributes:
      prepared: whether it went through `distloss.prepare`.
      refusal: why `distloss.prepare` does not take it; "" if it does.
      is_keras: whether it is a model of a Keras.
      horovod: whether its replicas are processes of Horovod.
    """

    prepared: bool = False
    refusal: str = ""
    is_keras: bool = True
    horovod: bool = False

    def prepare(self, arguments: str = "") -> str:
        """The call that prepares it."""
        replicas = ", replicas=distloss.HorovodReplicas()" * self.horovod
        return f"distloss.prepare(model{replicas}{arguments})"


@dataclass(frozen=True)
class Remedy:
    """What to change.

    Attributes:
      by_hand: without this package.
      own: with it, in a step of one's own.
      compiled: whether `distloss.prepare` mends it in a compiled model, too.
      arguments: of that, besides the model.
    """

    by_hand: str
    own: str = ""
    compiled: bool = False
    arguments: str = ""

    def __str__(self) -> str:
        """For a model of which nothing is known."""
        if not self.compiled:
            return self._with(self.own)
        compiled = f"{Model().prepare(self.arguments)} for a compiled model"
        return self._with(f"{compiled}, or {self.own}" if self.own else compiled)

    def of(self, model: Model) -> str:
        """For this model."""
        if not self.compiled:
            return str(self)
        if model.prepared:
            return (
                f"{self.by_hand} The model is prepared already, so it comes from what "
                "distloss.prepare does not reach (a layer, a callback or a loss that "
                "averages, divides or clips by itself; in a step of its own a sum over "
                "rows, taken for a mean), or is a fault of distloss."
            )
        if not model.is_keras:
            return self._with(self.own)
        if model.refusal:
            refused = f"distloss.prepare does not take this model: {model.refusal}"
            return f"{self._with(self.own)} ({refused})"
        return self._with(model.prepare(self.arguments))

    def _with(self, way: str) -> str:
        return f"{self.by_hand} With distloss: {way}." if way else self.by_hand


@dataclass(frozen=True)
class Cause:
    """Something that makes the update depend on how the batch is split.

    Attributes:
      slug: its name in reports.
      explanation: what happens, in the user's terms.
      remedy: what to change.
      cases: what is said instead under special circumstances, by their name.
      may_be_chance: whether a step may only seem to have it, because `build()` draws
        other random numbers each time.
      beyond_rounding: whether the same step in float64 need not show it.
      is_certain: whether an experiment, or an exact number, leaves no other cause.
      likely: the cases of which that is not so.
      made_with: what it is about: the "loss", the "optimizer", a "layer" or the "data".
    """

    slug: str
    explanation: str
    remedy: Remedy
    cases: Mapping[str, tuple[str, Remedy]] = field(default_factory=dict)
    may_be_chance: bool = False
    beyond_rounding: bool = False
    is_certain: bool = True
    likely: tuple[str, ...] = ()
    made_with: str = "loss"

    def finding(
        self, replicas: int, scale: float, *evidence: str, case: str = ""
    ) -> Finding:
        """What the report says, for any model and of no variables in particular."""
        words = self.cases[case] if case else (self.explanation, self.remedy)
        explanation, remedy = words
        is_certain = self.is_certain and case not in self.likely
        return Finding(
            self.slug,
            replicas,
            scale,
            0.0,
            (),
            explanation,
            str(remedy),
            evidence,
            certainty="certain" if is_certain else "likely",
        )

    def remedies(self) -> list[Remedy]:
        """That of the cause, and those of its cases."""
        return [self.remedy, *(remedy for _, remedy in self.cases.values())]


def divided_by_all(before: str = "") -> Remedy:
    """That of a loss which is not divided by what all replicas hold."""
    return Remedy(
        before + "By hand: divide the local sum by the rows (or weights) of the whole "
        "batch, summed over replicas.",
        "distloss.DistributedLoss(loss) for a loss, distloss.mean_share(values) for "
        "values, in a step of your own",
        compiled=True,
    )


def by_the_optimizer(by_hand: str) -> Remedy:
    """That of what is done to gradients before they are added up."""
    return Remedy(by_hand, "distloss.DistributedOptimizer(optimizer)", compiled=True)

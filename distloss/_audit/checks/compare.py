"""How far two gradients differ: scale, residual, per variable; what is rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distloss._audit.checks.probes import Probe

Vector = Any  # one flat float array: the gradients of all variables

# A difference below 1/DOUBT of what rounding may make is surely rounding, and one above
# DOUBT**2 times that is surely more. In between, the same step in float64 decides.
DOUBT = 4.0


@dataclass(frozen=True)
class Updated:
    """What the graph of a step does with the variables that the model trains.

    Attributes:
      read: the indices of those whose values it uses.
      written: of those that it may give other values.
      without_gradient: of those of which a tape was asked for a gradient and gave
        none, though nobody stopped it.
      discarded: of those whose gradient a tape gave, and which are not written.
      elsewhere: names of other variables that it may change and that may hold what
        is to become an update.
    """

    read: tuple[int, ...]
    written: tuple[int, ...]
    without_gradient: tuple[int, ...] = ()
    discarded: tuple[int, ...] = ()
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepFacts:
    """What is known about the step before it is compared.

    Attributes:
      names: path of each trainable variable.
      sizes: its number of elements.
      eps: of the coarsest dtype in which gradients are computed.
      rows: of the batch.
      calls: how many calls of the step make one update.
      tapes: how many gradients of one variable a replica takes in one call, as far
        as known.
      terms: what the loss consists of: "added", "regularizers", "output NAME".
      clip: whether gradients are clipped.
      clips: how optimizers clip: settings, and the indices of their variables.
      optimizers: the indices of the variables that each of them updates.
      clips_by_hand: whether the step clips gradients itself.
      adders: names of the layers that add losses.
      outputs: names of the losses of a compiled model with several.
      batch_norm: whether there is BatchNormalization.
      loss_scale: whether there is a LossScaleOptimizer.
      is_keras: whether the loss is reported by Keras.
      lints: cause -> evidence, of mistakes that are seen in the traced step.
      constants: whole numbers that the step divides a sum over rows by.
      batch_sizes: whole numbers that the step calls the size of the batch.
      updated: what it does with variables; None where that is not known.
      always: how many rows all batches have; 0 if that is not known.
      is_even: whether replicas have as many rows as each other in each batch.
      splits: that are to be probed besides the even one; None for those that can occur.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    eps: float
    rows: int
    calls: int = 1
    tapes: int = 1
    terms: tuple[str, ...] = ()
    clip: bool = False
    clips: tuple[tuple[dict[str, float], tuple[int, ...]], ...] = ()
    optimizers: tuple[tuple[int, ...], ...] = ()
    clips_by_hand: bool = False
    adders: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    batch_norm: bool = False
    loss_scale: bool = False
    is_keras: bool = True
    lints: dict[str, str] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    updated: Updated | None = None
    always: int = 0
    is_even: bool = False
    splits: tuple[str, ...] | None = None

    def of_script(
        self,
        always: int,
        cut_from: int,
        splits: tuple[str, ...] | None,
        *,
        is_even: bool = False,
    ) -> StepFacts:
        """The same, with what a script says; a cut batch is not the one it counts."""
        return dataclasses.replace(
            self,
            always=always,
            is_even=is_even,
            splits=splits,
            constants=tuple(c for c in self.constants if c != cut_from),
            batch_sizes=tuple(c for c in self.batch_sizes if c != cut_from),
        )

    def why_not(self, split: str, replicas: int) -> str:
        """Why a split of the batch is not to be probed; "" if it is."""
        if not split:
            return ""
        if self.splits is not None:
            return "" if split in self.splits else "not among --splits"
        if self.is_even and replicas > 1:
            return (
                "all processes have as many rows in each batch; "
                f"--splits {split} probes it all the same"
            )
        if not self.always or self.always % replicas:
            return ""
        return (
            f"all batches have {self.always} rows, which {replicas} replicas share "
            f"evenly; --splits {split} probes it all the same"
        )

    @property
    def rounding(self) -> float:
        """The relative difference up to which sums in another order may differ."""
        return float(self.eps**0.6)

    def slices(self) -> list[slice]:
        """Where in a vector each variable is."""
        ends = np.cumsum(self.sizes)
        return [
            slice(int(e - n), int(e)) for e, n in zip(ends, self.sizes, strict=True)
        ]


@dataclass(frozen=True)
class Observation:
    """What one probe showed on one configuration.

    Attributes:
      gradient: what reached the update rule.
      spread: relative difference between replicas, of what was recorded.
      sources: "gradient" where it was recorded, "weights" where it is their change.
      loss: as reported; one number from Keras, one per replica from a custom loop.
      moved: whether any weight changed.
      finite: whether all weights are finite after the step.
      size: norm of all weights.
      seconds: how long it took.
      repeats: how many slices of sparse gradients have the index of another one.
      losses: of what the tapes of a replica took gradients, where there is only one.
      moves_weights: whether weights are changed between two tapes, and not only by the
        update.
    """

    gradient: Vector
    spread: float = 0.0
    sources: tuple[str, ...] = ("gradient",)
    loss: tuple[float, ...] = ()
    moved: bool = True
    finite: bool = True
    size: float = 0.0
    seconds: float = 0.0
    repeats: int = 0
    losses: tuple[float, ...] = ()
    moves_weights: bool = False


# What a probe shows on so many replicas; raises NotRun.
Look = Callable[[int, Probe], Observation]


class NotRun(Exception):
    """A probe could not be run: the step raised, or there was no time.

    Attributes:
      raised: whether it was the step that raised.
    """

    def __init__(self, why: str, *, raised: bool = False) -> None:
        super().__init__(why)
        self.raised = raised


@dataclass(frozen=True)
class Difference:
    """gN against g1.

    Attributes:
      scale: alpha = <gN,g1>/<g1,g1>.
      residual: rho = |gN - alpha g1| / |gN|.
      error: |gN - g1| / |g1|.
      agrees: nothing but rounding.
      uniform: nothing but rounding, after gN is divided by alpha.
      finite: whether gN is.
      doubtful: near the border between rounding and more, where eps proves nothing.
      wrong: indices of the variables that differ.
      variables: alpha and rho of each variable with a gradient, by index.
    """

    scale: float
    residual: float
    error: float
    agrees: bool
    uniform: bool
    finite: bool
    doubtful: bool
    wrong: tuple[int, ...]
    variables: dict[int, tuple[float, float]]


def norm(vector: Vector) -> float:
    """Its length, in float64."""
    return float(np.linalg.norm(np.asarray(vector, np.float64)))


def scale_of(vector: Vector, reference: Vector) -> float:
    """Alpha."""
    squared = norm(reference) ** 2
    return float(np.dot(vector, reference) / squared) if squared else float("nan")


def residual_of(vector: Vector, reference: Vector) -> float:
    """Rho."""
    size = norm(vector)
    if not size:
        return 0.0
    return norm(vector - scale_of(vector, reference) * reference) / size


class Tolerance:
    """Tells rounding from a difference, for one step.

    Args:
      facts: about the step.
      noise: per variable: the length of the difference that another order of the
        same rows makes on one device.
    """

    def __init__(self, facts: StepFacts, noise: Sequence[float] | None = None) -> None:
        self.facts = facts
        self._noise = list(noise or [0.0] * len(facts.sizes))

    def compare(self, seen: Observation, reference: Observation) -> Difference:
        """`seen` on N replicas against `reference` on one."""
        gradient = np.asarray(seen.gradient, np.float64)
        wanted = np.asarray(reference.gradient, np.float64)
        if not np.isfinite(gradient).all():
            bad = self._without_number(gradient)
            nan = float("nan")
            return Difference(nan, nan, nan, False, False, False, False, bad, {})
        scale = scale_of(gradient, wanted)
        least = self._least(seen, reference, norm(wanted))
        excess = self._excess(gradient, wanted, least)
        wrong = tuple(i for i, times in enumerate(excess) if times > 1)
        factor = scale if scale > 0 else 1.0
        of_scaled = max(self._excess(gradient / factor, wanted, least))
        uniform = bool(scale > 0) and of_scaled <= 1
        size = norm(wanted)
        return Difference(
            scale,
            residual_of(gradient, wanted),
            norm(gradient - wanted) / size if size else norm(gradient),
            not wrong,
            uniform,
            True,
            1 / DOUBT < max(excess) < DOUBT**2,
            wrong,
            self._per_variable(gradient, wanted, least),
        )

    def apart(self, again: Observation, first: Observation) -> float:
        """How far two runs of one step differ, of the gradient; 0 for rounding."""
        if self.compare(again, first).agrees:
            return 0.0
        return norm(again.gradient - first.gradient) / norm(first.gradient)

    def _without_number(self, gradient: Vector) -> tuple[int, ...]:
        slices = enumerate(self.facts.slices())
        return tuple(i for i, part in slices if not np.isfinite(gradient[part]).all())

    def _least(
        self, seen: Observation, reference: Observation, size: float
    ) -> list[float]:
        """Per variable, the length of a difference that means nothing."""
        extra = 2 * self.facts.eps * size
        if "weights" in (*seen.sources, *reference.sources):
            # Their change is no more exact than they are, in float32 or float64.
            eps = min(self.facts.eps, 2.0**-23)
            extra += 4 * eps * max(seen.size, reference.size)
        return [4 * noise + extra for noise in self._noise]

    def _excess(
        self, gradient: Vector, wanted: Vector, least: list[float]
    ) -> list[float]:
        """Per variable, the difference in units of what rounding may make of it."""
        found = []
        for i, part in enumerate(self.facts.slices()):
            apart = norm(gradient[part] - wanted[part])
            allowed = self.facts.rounding * norm(wanted[part]) + least[i]
            found.append(apart / allowed if allowed else float(np.sign(apart) * np.inf))
        return found

    def _per_variable(
        self, gradient: Vector, wanted: Vector, least: list[float]
    ) -> dict[int, tuple[float, float]]:
        found = {}
        for i, part in enumerate(self.facts.slices()):
            own, other = gradient[part], wanted[part]
            if norm(other) > 10 * least[i]:
                found[i] = (scale_of(own, other), residual_of(own, other))
        return found

    def is_near(self, value: float, target: float) -> bool:
        """Whether a measured factor is `target`."""
        allowed = max(3 * self.facts.rounding, 1e-3)
        return abs(value / target - 1) < allowed

    def fit(self, gradient: Vector, parts: Sequence[Vector]) -> tuple[Vector, float]:
        """The factors by which `parts` add up to `gradient`, and what is left over."""
        matrix = np.stack([np.asarray(p, np.float64) for p in parts], axis=1)
        goal = np.asarray(gradient, np.float64)
        lengths = np.linalg.norm(matrix, axis=0)
        lengths[lengths == 0] = 1  # of a skipped step, which explains nothing
        factors, *_ = np.linalg.lstsq(matrix / lengths, goal, rcond=None)
        left = norm(goal - matrix / lengths @ factors) / norm(goal)
        return factors / lengths, left

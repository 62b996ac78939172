"""From measurements to causes. Knows no TensorFlow: it asks for probes, and judges.

Nothing is guessed: a cause is named when a probe shows it, and what no probe explains
is a finding of its own, `unexplained`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.causes import words_of
from distloss._audit.checks.clipping import clip_scales, clipped_by_each
from distloss._audit.checks.compare import Difference, Facts, Ruler, Seen, norm
from distloss._audit.checks.probes import UNEVEN, Probe
from distloss._audit.report.findings import Finding, Measured, Skipped


class NotRun(Exception):
    """A probe could not be run: the step raised, or there was no time.

    Attributes:
      raised: whether it was the step that raised.
    """

    def __init__(self, why: str, *, raised: bool = False) -> None:
        super().__init__(why)
        self.raised = raised


# What is seen on so many replicas in a probe; raises NotRun.
Look = Callable[[int, Probe], Seen]

SLICES_SHOWN = (
    "the same step on the same rows changes the weights by another amount if slices of "
    "one index are added up first"
)


def slices_apart(look: Look, ruler: Ruler, count: int, probe: Probe) -> Difference:
    """What the step makes of slices of one index, against the update of their sum."""
    as_it_is = dataclasses.replace(probe, observe="weights", clip=1.0)
    added_up = dataclasses.replace(as_it_is, slices_added=True)
    return ruler.compare(look(count, as_it_is), look(count, added_up))


class Diagnosis:
    """The comparison of N replicas with one.

    Args:
      replicas: N.
      look: runs a probe.
      ruler: tells rounding from a difference.
    """

    def __init__(self, replicas: int, look: Look, ruler: Ruler) -> None:
        self.replicas, self._look_at, self._ruler = replicas, look, ruler
        self._facts: Facts = ruler.facts
        self.patient: Callable[[], bool] = lambda: True
        self.failure = ""
        self.accumulates = False  # in a wrong way, which is known already
        self.doubt = 0.0  # the largest difference that may be rounding, or more
        self.findings: list[Finding] = []
        self.skipped: list[Skipped] = []
        self.measured: list[Measured] = []

    def run(self) -> None:
        """Probes what decides first."""
        even = self._even()
        if any(0 in rows for rows in even.rows()):
            self.failure = (
                f"Expected rows for each of {self.replicas} replicas in each of "
                f"{self._facts.calls} calls of the step, which make one update. Got "
                f"{self._facts.rows} rows in all. Return a larger batch."
            )
            self._skip("even split", self.failure)
            return
        try:
            seen, difference = self._measure(even)
        except NotRun as error:
            self.failure = str(error)
            self._skip("even split", self.failure)
            return
        if seen.spread > self._ruler.facts.tolerance:
            self._not_reduced(seen, difference)
            return
        if not difference.agrees:
            self._explain(even, difference)
        if self.findings and not self.patient():
            self._skip("other probes", "the cause is certain, and a step takes seconds")
            return
        self._run_others(even, difference)

    def _run_others(self, even: Probe, difference: Difference) -> None:
        checks = [self._uneven, self._empty, self._clip, self._slices, self._overflow]
        for check in checks:
            self._try(check, difference.agrees)
        if difference.agrees:
            self._report(even)
            self._try(self._batch_norm, True)
        elif self._facts.batch_norm:
            self._skip("BatchNormalization", "the gradient is wrong with it frozen")

    def _even(self) -> Probe:
        return probes.even(self._facts.rows, self.replicas, self._facts.calls)

    def _look(self, count: int, probe: Probe) -> Seen:
        """What a probe shows; of one term alone, what its absence changes."""
        if not probe.alone:
            return self._look_at(count, probe)
        on = dataclasses.replace(probe, alone="")
        without: Any = {probe.alone: 0.0}
        seen = self._look_at(count, on)
        off = self._look_at(count, dataclasses.replace(on, **without))
        # A difference is no more exact than what it is the difference of.
        return dataclasses.replace(
            seen,
            gradient=np.asarray(seen.gradient, np.float64) - off.gradient,
            sources=("weights",),
            size=norm(seen.gradient),
        )

    def _try(self, check: Callable[[bool], None], even_agrees: bool) -> None:
        try:
            check(even_agrees)
        except NotRun as error:
            self._skip(check.__name__.strip("_").replace("_", " "), str(error))

    def _skip(self, check: str, why: str) -> None:
        where = f"{check} on {self.replicas} replicas"
        self.skipped.append(Skipped(where, why))

    def _measure(self, probe: Probe) -> tuple[Seen, Difference]:
        seen = self._look(self.replicas, probe)
        return seen, self._compared(probe, seen, self._look(1, probe.on_one()))

    def _compared(self, probe: Probe, seen: Seen, reference: Seen) -> Difference:
        difference = self._ruler.compare(seen, reference)
        self.measured.append(self._as_measured(probe, difference))
        if difference.doubtful:
            self.doubt = max(self.doubt, difference.error)
        return difference

    def _as_measured(self, probe: Probe, difference: Difference) -> Measured:
        names = self._facts.names
        return Measured(
            probe.name,
            self.replicas,
            tuple(tuple(rows) for rows in probe.rows()),
            difference.scale,
            difference.residual,
            difference.error,
            difference.agrees,
            {names[i]: pair for i, pair in difference.variables.items()},
        )

    def _find(
        self,
        cause: str,
        difference: Difference,
        *evidence: str,
        term: str = "",
        case: str = "",
    ) -> None:
        explanation, remedy = words_of(cause, case)
        if term:
            explanation += f" It is the term {term!r} of the loss."
        found = Finding(
            cause,
            self.replicas,
            difference.scale,
            difference.residual,
            tuple(self._facts.names[i] for i in difference.wrong),
            explanation,
            remedy,
            evidence,
        )
        known = {(f.cause, f.explanation) for f in self.findings}
        if (cause, explanation) not in known:
            self.findings.append(found)

    def _not_reduced(self, seen: Seen, difference: Difference) -> None:
        self._find(
            "not-reduced",
            difference,
            f"after one step replicas differ by {seen.spread:.2g} of the update",
        )

    # -- the even split

    def _explain(self, probe: Probe, difference: Difference) -> None:
        """Names the cause of a difference, of each term of the loss by itself."""
        if self._known_scale(probe, difference, ""):
            return
        before = len(self.findings)
        for term, alone in self._terms(probe):
            try:
                _, own = self._measure(alone)
            except NotRun as error:
                self._skip(f"{alone.name} of {term}", str(error))
                continue
            if not own.agrees:
                self._explain_term(alone, own, term)
        if len(self.findings) == before:
            self._explain_term(probe, difference, "")

    def _terms(self, probe: Probe) -> Iterator[tuple[str, Probe]]:
        """The probe with one term of the loss at a time; nothing if there is one."""
        terms, outputs = self._facts.terms, self._facts.outputs
        if not terms and len(outputs) < 2:
            return
        off = dataclasses.replace(probe, added=0.0, regularizers=0.0)
        for i, name in enumerate(outputs):
            only = tuple(float(i == j) for j in range(len(outputs)))
            yield f"output {name}", dataclasses.replace(off, outputs=only)
        if not outputs:
            yield "loss of the data", off
        nothing = dataclasses.replace(off, outputs=(0.0,) * max(1, len(outputs)))
        for name in terms:
            own: Any = {name: 1.0}
            alone = dataclasses.replace(nothing, **own)
            if not self._facts.is_keras:  # the loss of the data has no switch
                alone = dataclasses.replace(off, alone=name, **own)
            yield from self._layers(name, alone)

    def _layers(self, term: str, probe: Probe) -> Iterator[tuple[str, Probe]]:
        """The probe of a term; of what several layers add, one of each layer."""
        if term != "added" or len(self._facts.adders) < 2:
            yield term, probe
            return
        for i, layer in enumerate(self._facts.adders):
            yield f"added by {layer}", dataclasses.replace(probe, only_added=i)

    def _explain_term(self, probe: Probe, difference: Difference, term: str) -> None:
        if not difference.finite:
            evidence = "the gradient is not finite on N replicas, and is on one"
            self._find("unexplained", difference, evidence, term=term)
            return
        for attempt in (self._known_scale, self._data_free, self._by_parts):
            try:
                if attempt(probe, difference, term):
                    return
            except NotRun as error:
                self._skip(f"{probe.name}, telling causes apart", str(error))
        if not self._scaled_apart(probe, difference, term):
            self._unexplained(probe, difference, term)

    def _unexplained(self, probe: Probe, difference: Difference, term: str) -> None:
        if self.accumulates:
            why = "it differs, as the wrong accumulation on one device lets expect"
            self._skip(probe.name, why)
            return
        tried = (
            f"{probe.name}: alpha = {difference.scale:.4g}, rho = "
            f"{difference.residual:.2g}; tried: a factor N, 1/N, N*N; a term without "
            "data; means of parts; scales per variable"
        )
        self._find("unexplained", difference, tried, term=term)

    def _known_scale(self, probe: Probe, difference: Difference, term: str) -> bool:
        """A uniform factor that has a name."""
        if not difference.uniform:
            return False
        n, near = self.replicas, self._ruler.is_near
        cause = ""
        if near(difference.scale, n):
            cause = "sum-of-means"
        elif near(difference.scale, 1 / n) or near(difference.scale, 1 / n**2):
            cause = "divided-twice"
        elif near(difference.scale, n**2):
            cause = "scaled-n-squared"
        if cause:
            cause = self._cause_in_term(cause, probe, term)
            evidence = (
                f"{probe.name}: alpha = {difference.scale:.4g}, rho = "
                f"{difference.residual:.1g} on {n} replicas, the same for all variables"
            )
            self._find(cause, difference, evidence, term=term)
        return bool(cause)

    def _cause_in_term(self, cause: str, probe: Probe, term: str) -> str:
        """The name that a factor has in one term of the loss."""
        if cause == "sum-of-means" and term == "regularizers":
            return "regularization-not-scaled"
        if not term.startswith("added") or self._facts.calls > 1:
            return cause
        kind = self._kind_of(probe)
        if cause == "sum-of-means" and kind == "weights":
            return "regularization-not-scaled"
        if cause == "divided-twice" and kind == "sum" and not self._facts.is_keras:
            return "added-loss-divided"
        return cause

    def _kind_of(self, probe: Probe) -> str:
        """Whether a term is of "weights" only, a "sum" over rows, or else a "mean"."""
        n = self.replicas
        parts = [self._look(1, probe.of_replica(r)).gradient for r in range(n)]
        whole = self._look(1, probe.on_one()).gradient
        limit = 30 * self._facts.tolerance * norm(whole)
        if all(norm(part - whole) <= limit for part in parts):
            return "weights"
        return "sum" if norm(sum(parts) - whole) <= limit else "mean"

    def _data_free(self, probe: Probe, difference: Difference, term: str) -> bool:
        """The difference is the same whatever the rows: it comes from the weights."""
        if self._facts.rows < 2 * self.replicas or self._facts.calls > 1:
            return False
        apart = []
        for part in (0, 1):
            rows = probes.even(self._facts.rows, self.replicas, part=part)
            other = dataclasses.replace(probe, micro=rows.micro)
            seen, one = self._look(self.replicas, other), self._look(1, other.on_one())
            apart.append(np.asarray(seen.gradient - one.gradient, np.float64))
        size = max(norm(apart[0]), norm(apart[1]))
        if not size or norm(apart[0] - apart[1]) > 100 * self._facts.tolerance * size:
            return False
        evidence = (
            "the difference from one replica is the same for other rows, so it "
            "comes from the weights alone"
        )
        self._find("regularization-not-scaled", difference, evidence, term=term)
        return True

    def _scaled_apart(self, probe: Probe, difference: Difference, term: str) -> bool:
        limit = 10 * self._facts.tolerance
        pairs = difference.variables
        if not pairs or any(rho > limit for _, rho in pairs.values()):
            return False
        scales = ", ".join(
            f"{self._facts.names[i]}: {alpha:.3g}" for i, (alpha, _) in pairs.items()
        )
        evidence = f"{probe.name}: alpha by variable: {scales}"
        self._find("variables-scaled-apart", difference, evidence, term=term)
        return True

    # -- parts

    def _by_parts(self, probe: Probe, difference: Difference, term: str) -> bool:
        """What N replicas add up, in terms of what each computes alone."""
        if self._facts.calls > 1 or self.accumulates:
            return False
        n = self.replicas
        parts = [self._look(1, probe.of_replica(r)).gradient for r in range(n)]
        parts = [p for p in parts if np.isfinite(p).all() and norm(p)]
        if len(parts) < 2:
            return False
        wanted = self._look(1, probe.on_one()).gradient
        seen = self._look(n, probe).gradient
        right, left_of_right = self._ruler.fit(wanted, parts)
        given, left_of_given = self._ruler.fit(seen, parts)
        limit = 30 * self._facts.tolerance
        if left_of_right > limit:
            if left_of_given > limit and n > 2 and left_of_right < 10 * limit:
                return False
            self._not_decomposable(probe, difference, term, left_of_right)
            return True
        if left_of_given > limit:
            return False
        return self._named_by_parts(probe, difference, term, (given, right))

    def _not_decomposable(
        self, probe: Probe, difference: Difference, term: str, left: float
    ) -> None:
        shown = (
            f"{probe.name}: no weights make the gradients of the parts add up to "
            f"that of the whole: {left:.2g} of it is left over"
        )
        if not self._treated(probe, difference, term, None, shown):
            self._find("not-decomposable", difference, shown, term=term)

    def _treated(
        self, probe: Probe, difference: Difference, term: str, right: Any, shown: str
    ) -> bool:
        """Whether it is not the loss, but what is done to its gradient.

        Then the gradients of the parts that a tape gives add up to that of the whole,
        and by other factors (`right`, none for no factors) than what is made of them.
        """
        if probe.alone:
            return False
        tape = dataclasses.replace(probe, observe="tape")
        whole = self._look(1, tape.on_one())
        if self._facts.tapes > 1 and not whole.moves_weights:
            return False  # the first tape of several tells nothing of the others
        n = self.replicas
        parts = [self._look(1, tape.of_replica(r)).gradient for r in range(n)]
        if not norm(whole.gradient) or not all(map(norm, parts)):
            return False
        factors, left = self._ruler.fit(whole.gradient, parts)
        alike = right is not None and np.allclose(factors, right, rtol=0.02)
        if alike or not left <= 30 * self._facts.tolerance:
            return False
        summed = self._ruler.compare(self._look(n, tape), whole)
        taken = (
            f"gradients of the tape add up, those of {n} replicas to "
            f"{summed.scale:.4g} times that of the whole; what the step makes of them "
            "does not"
        )
        is_right = summed.agrees or summed.uniform  # whoever divides by N
        cause = "not-linear-in-gradient" if is_right else "unexplained"
        self._find(cause, difference, shown, taken, term=term)
        return True

    def _named_by_parts(
        self,
        probe: Probe,
        difference: Difference,
        term: str,
        factors: tuple[Any, Any],
    ) -> bool:
        given, right = factors
        n = self.replicas
        shown = f"{probe.name}: in the whole, the parts count {_shown(right)}"
        if self._treated(probe, difference, term, right, shown):
            return True
        same = all(abs(f / given.mean() - 1) < 0.02 for f in given)
        names = {1 / n: "mean-of-means", 1.0: "sum-of-means", 1 / n**2: "divided-twice"}
        cause = next(
            (c for f, c in names.items() if abs(given.mean() / f - 1) < 0.02), ""
        )
        if not (same and cause):
            return False
        evidence = (
            f"{probe.name}: the means of the replicas count {_shown(given)}; in the "
            f"mean of the whole batch they count {_shown(right)}"
        )
        case = ""
        if cause == "mean-of-means" and probe.name == UNEVEN:
            case = "uneven"
            evidence += f"; {_as_dealt(self._facts.rows, n)}"
        self._find(cause, difference, evidence, term=term, case=case)
        return True

    # -- other probes

    def _uneven(self, even_agrees: bool) -> None:
        probe = probes.uneven(self._facts.rows, self.replicas, self._facts.calls)
        if probe is None:
            self._skip("uneven split", f"{self._facts.rows} rows are too few")
            return
        _, difference = self._measure(probe)
        if not even_agrees or difference.agrees:
            return
        before = len(self.findings)
        for term, alone in self._terms(probe):
            _, own = self._measure(alone)
            if not own.agrees and not self._by_parts(alone, own, term):
                self._unexplained(alone, own, term)
        if len(self.findings) == before and not self._by_parts(probe, difference, ""):
            self._unexplained(probe, difference, "")

    def _empty(self, even_agrees: bool) -> None:
        n = self.replicas
        probe = probes.empty(self._facts.rows, n, self._facts.calls)
        try:
            seen, difference = self._measure(probe)
        except NotRun as error:
            self._raises_on_empty(probe, error)
            return
        if not difference.finite:
            self._find(
                "empty-replica",
                difference,
                f"{n - 1} of {n} replicas with rows: the gradient is not finite",
            )
        elif even_agrees and not np.isfinite(seen.loss).all():
            self._find(
                "empty-replica",
                dataclasses.replace(difference, wrong=()),
                f"{n - 1} of {n} replicas with rows: the loss that the step returns is "
                "not finite on one of them",
            )
        elif even_agrees and not difference.agrees:
            self._scaled_by_empty(difference)

    def _raises_on_empty(self, probe: Probe, error: NotRun) -> None:
        """A step that raises on no rows, and does not with a row in their place."""
        filled = probe.with_a_row_on_each()
        if not error.raised or filled is None:
            raise error
        try:
            self._look(self.replicas, filled)
        except NotRun:
            raise error from None
        nan = float("nan")
        unknown = Difference(nan, nan, nan, False, False, False, False, (), {})
        self._find(
            "empty-replica",
            unknown,
            f"{error} With one row on the last replica it runs.",
            case="raises",
        )

    def _scaled_by_empty(self, difference: Difference) -> None:
        n = self.replicas
        if difference.uniform and self._ruler.is_near(difference.scale, (n - 1) / n):
            self._find(
                "empty-replica",
                difference,
                f"{n - 1} of {n} replicas with rows: alpha = {difference.scale:.4g}",
            )
        elif not any(f.cause == "mean-of-means" for f in self.findings):
            evidence = f"empty shard: alpha = {difference.scale:.4g}"
            self._find("unexplained", difference, evidence)

    def _clip(self, even_agrees: bool) -> None:
        if not self._facts.clip:
            return
        even = self._even()
        unclipped = np.asarray(self._look(self.replicas, even).gradient, np.float64)
        for clip in clip_scales(unclipped, self._facts):
            probe = dataclasses.replace(even, name="clipping on", clip=clip)
            wanted = None if even_agrees else self._clipped_once(unclipped, clip)
            seen = self._look(self.replicas, probe)
            if wanted is None and not even_agrees:
                self._skip("clipping", "the gradient is wrong without it")
                return
            goal = self._look(1, probe.on_one()) if wanted is None else Seen(wanted)
            difference = self._compared(probe, seen, goal)
            if not difference.agrees:
                how = "as set" if clip == 1 else f"{clip:.3g} times tighter than set"
                self._find(
                    self._cause_of_clipping(probe),
                    difference,
                    f"clipped {how}: alpha = {difference.scale:.4g}, rho = "
                    f"{difference.residual:.2g} against the gradient of the batch, "
                    "clipped; without clipping they are the same",
                )
                return

    def _cause_of_clipping(self, probe: Probe) -> str:
        """Each replica clips its own, or slices of one index are clipped apart."""
        if self._look(self.replicas, probe).repeats:
            added_up = dataclasses.replace(probe, slices_added=True)
            on_one = self._look(1, added_up.on_one())
            seen = self._look(self.replicas, added_up)
            if self._ruler.compare(seen, on_one).agrees:
                return "sparse-slices-apart"
        return "clip-before-sum"

    def _clipped_once(self, gradient: Any, clip: float) -> Any:
        if not self._facts.clips or self._facts.clips_by_hand:
            return None
        return clipped_by_each(gradient * clip, self._facts) / clip

    def _slices(self, _even_agrees: bool) -> None:
        even = dataclasses.replace(self._even(), name="sparse update")
        if not self._look(self.replicas, even).repeats:
            return
        ruler = Ruler(self._facts)
        difference = slices_apart(self._look, ruler, self.replicas, even)
        if difference.doubtful:
            self.doubt = max(self.doubt, difference.error)
        if not difference.agrees:
            shown = f"alpha = {difference.scale:.4g}, rho = {difference.residual:.2g}"
            self._find("sparse-slices-apart", difference, f"{SLICES_SHOWN}: {shown}")

    def _overflow(self, _even_agrees: bool) -> None:
        even = self._even()
        bounds = even.micro[0]
        for replica in (self.replicas - 1, 0):
            row = bounds[replica][0]
            probe = dataclasses.replace(
                even, name="overflow", infinite_row=row, clip=1.0
            )
            one = self._look(1, probe.on_one())
            if one.moved:
                if self._facts.loss_scale:
                    self._skip(
                        "overflow", "an infinite input made no infinite gradient"
                    )
                return
            seen = self._look(self.replicas, probe)
            if seen.moved or not seen.finite:
                state = "changed" if seen.finite else "not finite"
                _, difference = self._measure(even)
                self._find(
                    "overflow-not-agreed",
                    dataclasses.replace(difference, wrong=()),
                    f"an infinite row on replica {replica} only: the weights are "
                    f"{state} after the step; on one device it is skipped",
                )
                return

    def _report(self, even: Probe) -> None:
        one = self._look(1, even.on_one()).loss
        many = self._look(self.replicas, even).loss
        if len(one) != 1 or not many or not np.isfinite(one[0]):
            self._skip("reported loss", "the step returns no loss")
            return
        readings = [sum(many), sum(many) / len(many)]
        limit = 10 * self._facts.tolerance
        if any(abs(r - one[0]) <= limit * abs(one[0]) + 1e-7 for r in readings):
            return
        reading = readings[1]
        difference = Difference(1.0, 0.0, 0.0, True, True, True, False, (), {})
        ratio = reading / one[0] if one[0] else float("nan")
        self._find(
            "report-only",
            difference,
            f"shown on {self.replicas} replicas: {reading:.6g}, on one device: "
            f"{one[0]:.6g}, {ratio:.4g} times",
        )

    def _batch_norm(self, _even_agrees: bool) -> None:
        if not self._facts.batch_norm:
            return
        probe = dataclasses.replace(
            self._even(), name="BatchNormalization live", batch_norm="live"
        )
        _, difference = self._measure(probe)
        if not difference.agrees:
            self._find(
                "batch-statistics",
                difference,
                f"even split: rho = {difference.residual:.2g} as it is, none with "
                "BatchNormalization frozen",
            )


def _as_dealt(rows: int, replicas: int) -> str:
    """Whether a split of this batch is uneven at all."""
    if rows % replicas:
        return f"this batch of {rows} rows does not split evenly over {replicas}"
    return (
        f"this batch of {rows} rows does split evenly over {replicas}: it shows in "
        "others, such as a short last one"
    )


def _shown(factors: Any) -> str:
    return ", ".join(f"{factor:.3g}" for factor in factors)

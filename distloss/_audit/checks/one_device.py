"""What one device shows: chance, rounding, accumulation, lint. No TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from distloss._audit.checks import probes
from distloss._audit.checks.causes import CAUSES
from distloss._audit.checks.compare import Facts, Ruler, Seen, norm, scale_of
from distloss._audit.checks.diagnosis import SLICES_SHOWN, Look, NotRun, slices_apart
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Finding, Skipped
from distloss._errors import AuditError

MOST_CALLS = 16  # of the step, in which an update is expected


class OneDevice:
    """The step on one replica, before it is compared.

    Args:
      look: runs a probe.
      facts: about the step.
      lints: cause -> evidence, found in the traced step.
      constants: whole numbers that the step divides a sum over rows by.
      batch_sizes: whole numbers that the step calls the size of the batch.
    """

    def __init__(
        self,
        look: Look,
        facts: Facts,
        lints: dict[str, str],
        constants: Sequence[int],
        batch_sizes: Sequence[int] = (),
    ) -> None:
        self._look, self._facts = look, facts
        self._lints, self._constants = lints, constants
        self._batch_sizes = batch_sizes
        self._noise: list[float] = [0.0] * len(facts.sizes)
        self.findings: list[Finding] = []
        self.late: list[Finding] = []
        self.skipped: list[Skipped] = []

    def ruler(self) -> Ruler:
        """With the noise that was measured."""
        return Ruler(self._facts, self._noise)

    def calibrate(self, patient: Callable[[], bool]) -> Facts:
        """Finds how many calls make an update, what is chance, and what rounding.

        Raises:
          AuditError: the step makes no update, or one that is not finite.
        """
        calls = self._calls()
        self._facts = dataclasses.replace(self._facts, calls=calls)
        first = self._seen(probes.whole(self._facts.rows, calls))
        self._check_gradient(first)
        if "weights" in first.sources:
            self._note_weights(first)
        if self._repeats(first) and patient():
            self._measure_noise(first)
            if calls > 1:
                self._accumulation()
            if calls > 1 or self._facts.tapes > 1:
                self._try(self._parts_of_a_step)
        self._try(self._slices)
        for cause, evidence in self._lints.items():
            self.findings.append(self._finding(cause, 1.0, evidence))
        return self._facts

    def _note_weights(self, seen: Seen) -> None:
        some = "some variables" if "gradient" in seen.sources else "all variables"
        self.skipped.append(
            Skipped(
                "gradients at the update rule",
                f"no Keras optimizer updates {some}: compared is what the step changes "
                "in the weights, from which a rule such as Adam may hide the scale",
            )
        )

    def _seen(self, probe: Probe) -> Seen:
        try:
            return self._look(1, probe)
        except NotRun as error:
            raise AuditError(str(error)) from error

    def _calls(self) -> int:
        """How many calls of the step make one update."""
        for calls in range(1, MOST_CALLS + 1):
            if calls > self._facts.rows:
                break
            seen = self._seen(probes.whole(self._facts.rows, calls))
            if seen.moved or "gradient" in seen.sources:
                return calls
        raise AuditError(
            "Expected train_step to change trainable_variables. Got no change in "
            f"{MOST_CALLS} calls. Does it apply an update, at a rate above 0?"
        )

    def _check_gradient(self, seen: Seen) -> None:
        if not np.isfinite(seen.gradient).all():
            raise AuditError(
                "Expected a finite gradient on one replica. Got NaN or infinity, with "
                f"which nothing can be compared. The reported loss is {seen.loss}."
            )
        if not norm(seen.gradient):
            raise AuditError(
                "Expected a gradient that is not zero on one replica. Got zero for all "
                "variables: nothing can be compared."
            )

    def _in_order(self, rows: Iterable[int]) -> Probe:
        whole = probes.whole(self._facts.rows, self._facts.calls)
        return dataclasses.replace(whole, order=tuple(rows))

    def _repeats(self, first: Seen) -> bool:
        """Whether the same step on the same rows shows the same again."""
        again = self._seen(self._in_order(range(self._facts.rows)))
        if self.ruler().compare(again, first).agrees:
            return True
        apart = norm(again.gradient - first.gradient) / norm(first.gradient)
        evidence = f"two runs on one device differ by {apart:.2g} of the gradient"
        self.findings.append(self._finding("nondeterministic", 1.0, evidence))
        return False

    @property
    def is_random(self) -> bool:
        """Whether two runs of the same step differ."""
        return any(f.cause == "nondeterministic" for f in self.findings)

    def _measure_noise(self, first: Seen) -> None:
        """Runs the step with the rows in another order."""
        if self._facts.calls > 1:
            return  # another order puts other rows into each call
        other = self._seen(self._in_order(reversed(range(self._facts.rows))))
        limit = 10 * self._facts.tolerance
        for i, part in enumerate(self._facts.slices()):
            apart = norm(other.gradient[part] - first.gradient[part])
            # A loss of neighbours may really change; that is no rounding.
            if apart <= limit * norm(first.gradient[part]) + limit * 1e-2 * norm(
                first.gradient
            ):
                self._noise[i] = apart

    def _accumulation(self) -> None:
        """Whether calls count by their rows."""
        whole = probes.whole(self._facts.rows, self._facts.calls)
        alike = [
            dataclasses.replace(whole, micro=(bounds,) * self._facts.calls)
            for bounds in whole.micro
        ]
        parts = [self._seen(probe) for probe in alike]
        seen = self._seen(whole)
        factors, left = self.ruler().fit(seen.gradient, [p.gradient for p in parts])
        if left > 30 * self._facts.tolerance:
            return
        rows = [bounds[0][1] - bounds[0][0] for bounds in whole.micro]
        if all(abs(f * len(rows) - 1) < 0.02 for f in factors):
            evidence = (
                f"{len(rows)} batches of {rows} rows each count 1/{len(rows)} in the "
                "update"
            )
            self.findings.append(
                self._finding("accumulation-mean-of-means", 1.0, evidence)
            )

    @property
    def accumulates(self) -> bool:
        """Whether a wrong accumulation was found."""
        return any(f.cause.startswith("accumulation") for f in self.findings)

    def _try(self, check: Callable[[], None]) -> None:
        try:
            check()
        except NotRun as error:
            self.skipped.append(Skipped("accumulation", str(error)))

    def _slices(self) -> None:
        """Whether slices of sparse gradients are updated as one."""
        probe = probes.whole(self._facts.rows, self._facts.calls)
        if self.is_random or not self._look(1, probe).repeats:
            return
        difference = slices_apart(self._look, Ruler(self._facts), 1, probe)
        if difference.agrees:
            return
        found = self._finding("sparse-slices-apart", difference.scale, SLICES_SHOWN)
        names = tuple(self._facts.names[i] for i in difference.wrong)
        self.findings.append(
            dataclasses.replace(found, residual=difference.residual, variables=names)
        )

    def _parts_of_a_step(self) -> None:
        """Whether the parts that a step is cut into count as they should."""
        if self._facts.calls == 1 and not self._takes_parts():
            return
        self._parts()
        self._not_averaged()

    def _takes_parts(self) -> bool:
        """Whether the gradients of one step are those of one loss, of other rows.

        Then they are of the same number where all rows are the same. Of two tasks, of
        a loss and of the same one with weights moved, they are not.
        """
        tapes = self._facts.tapes
        rows = tapes * max(1, self._facts.rows // tapes)
        alike = dataclasses.replace(probes.whole(rows, 1), order=(0,) * rows)
        losses = np.array(self._look(1, alike).losses)
        return bool(
            np.ptp(losses) <= 100 * self._facts.tolerance * np.abs(losses).max()
        )

    def _parts(self) -> None:
        """Whether the parts that a step is cut into count by what they hold."""
        rows, whole = self._facts.rows, probes.whole(self._facts.rows, 1)
        if self._facts.calls > 1 or any(f.cause for f in self.findings):
            return
        first = self._look(1, whole)
        twice = tuple(i for i in range(rows) for _ in range(self._facts.tapes))
        turned = tuple(reversed(range(rows)))
        ways = {
            "each row repeated": probes.whole(len(twice), 1),
            "the rows in reverse": whole,
        }
        for (way, probe), order in zip(ways.items(), (twice, turned), strict=True):
            other = self._look(1, dataclasses.replace(probe, order=order))
            scale = scale_of(other.gradient, first.gradient)
            scaled = dataclasses.replace(other, gradient=other.gradient / scale)
            difference = self.ruler().compare(scaled, first)
            if not difference.agrees:
                evidence = (
                    f"one device takes {self._facts.tapes} gradients per step; with "
                    f"{way}, their sum differs by {difference.error:.2g}"
                )
                found = self._finding("accumulation-mean-of-means", 1.0, evidence)
                self.findings.append(found)
                return

    def _not_averaged(self) -> None:
        """Whether the gradient is K times that of the loss that the step reports."""
        parts = max(self._facts.calls, self._facts.tapes)
        rows = self._facts.rows
        alike = dataclasses.replace(
            probes.whole(rows, self._facts.calls), order=(0,) * rows
        )
        seen = self._look(1, alike)
        squared = norm(seen.gradient) ** 2
        if len(seen.loss) != 1 or not squared or not seen.loss[0]:
            return
        nudge = 0.01 * abs(seen.loss[0]) / squared
        up, down = (
            self._look(1, dataclasses.replace(alike, nudge=sign * nudge)).loss[0]
            for sign in (1, -1)
        )
        slope = (up - down) / (2 * nudge * squared)
        if abs(slope * parts - 1) < 0.02:
            evidence = (
                f"one device takes {parts} gradients per update, and the update is "
                f"{1 / slope:.3g} times the gradient of the loss that is reported"
            )
            self.findings = [f for f in self.findings if not self._is_mean(f)]
            found = self._finding("accumulation-not-averaged", 1 / slope, evidence)
            self.findings.append(found)

    @staticmethod
    def _is_mean(finding: Finding) -> bool:
        return finding.cause == "accumulation-mean-of-means"

    def whole(self) -> Probe:
        """All rows, in as many calls as make an update."""
        return probes.whole(self._facts.rows, self._facts.calls)

    def built_differently(self, first: Seen, again: Seen) -> Finding | None:
        """What is found if two calls of build() make steps that differ."""
        if self.ruler().compare(again, first).agrees:
            return None
        apart = norm(again.gradient - first.gradient) / norm(first.gradient)
        evidence = (
            "build() was called twice on one device; with the same weights and rows, "
            f"the two steps differ by {apart:.2g} of the gradient"
        )
        return self._finding("nondeterministic", 1.0, evidence)

    def check_after(self, findings: Sequence[Finding]) -> None:
        """What is worth a look once the comparison with N replicas is done."""
        try:
            self._nominal_batch_size()
        except NotRun as error:
            self.skipped.append(Skipped("short batch", str(error)))

    def _nominal_batch_size(self) -> None:
        """Whether the step divides by a number of rows that the batch does not have."""
        rows = self._facts.rows
        known = {*self._constants, *self._batch_sizes}
        others = [c for c in self._batch_sizes if c != rows]
        # The rows of a short batch are some of those of a full one.
        others += [c for c in self._constants if rows < c < 2 * rows]
        if self._facts.calls > 1 or rows < 4 or not known:
            return
        cut = rows // 3
        parts = [
            self._look(1, Probe("short batch", (((a, b),),))).gradient
            for a, b in ((0, cut), (cut, rows))
        ]
        whole = self._look(1, probes.whole(rows, 1)).gradient
        factors, left = self.ruler().fit(whole, parts)
        if left > 30 * self._facts.tolerance or any(abs(f - 1) > 0.02 for f in factors):
            return
        if rows in known:
            self.skipped.append(
                Skipped(
                    "short batches",
                    f"the step divides by the constant {rows}: rows of a shorter batch "
                    "than this one count for less",
                )
            )
        elif others:
            evidence = (
                f"the step divides by the constant {max(others)}; the batch has {rows} "
                "rows, and the gradients of its parts add up to that of the whole"
            )
            scale = rows / max(others)
            self.late.append(self._finding("nominal-batch-size", scale, evidence))
        elif max(known) > rows:
            self.skipped.append(
                Skipped(
                    "short batches",
                    f"the loss divides a sum over {rows} rows by the constant "
                    f"{max(known)}; if that is meant as a number of rows, a batch of "
                    "fewer counts for less",
                )
            )

    def _finding(self, cause: str, scale: float, evidence: str) -> Finding:
        explanation, remedy = CAUSES[cause]
        return Finding(
            cause, 1, scale, 0.0, self._facts.names, explanation, remedy, (evidence,)
        )

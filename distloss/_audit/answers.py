"""What children answer, as what checks know of a step and of a probe."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from distloss._audit.checks.compare import Observation, StepFacts, Updated, norm
from distloss._audit.checks.probes import Probe
from distloss._audit.report.findings import Skipped


def restrictions(traced: dict[str, Any]) -> list[Skipped]:
    """What cannot be checked of this step as it is."""
    found = []
    if "randomness" in traced["found"]:
        why = "pinned: dropout is off, and each row gets the same random numbers"
        found.append(Skipped("randomness", why))
    if traced["eager_because"]:
        why = "the step ran eagerly, since it cannot be a graph"
        found.append(Skipped("tracing", f"{why}: {traced['eager_because']}"))
        why = "looked for in the graph of a step, and this one has none"
        found.append(Skipped("constants and weighted means", why))
    return found


def facts_of(traced: dict[str, Any], rows: int) -> StepFacts:
    """What a traced step consists of, on a batch of so many rows."""
    found = set(traced["found"])
    return StepFacts(
        names=tuple(traced["names"]),
        sizes=tuple(int(np.prod(shape)) for shape in traced["shapes"]),
        eps=traced["eps"],
        rows=rows,
        tapes=max(1, traced["tapes"]),
        terms=tuple(sorted(found & {"added", "regularizers"})),
        clip="clip" in found,
        clips=tuple((how, tuple(whose)) for how, whose in traced["clips"]),
        optimizers=tuple(map(tuple, traced["optimizers"])),
        clips_by_hand="clip_by_hand" in found,
        adders=tuple(traced["adders"]),
        outputs=tuple(traced["outputs"]),
        batch_norm="batch_norm" in found,
        loss_scale=traced["loss_scale"],
        is_keras=traced["is_keras"],
        lints=traced["lints"],
        constants=tuple(traced["constants"]),
        batch_sizes=tuple(traced["batch_sizes"]),
        updated=_updated(traced["updated"]),
    )


def _updated(answer: dict[str, Any] | None) -> Updated | None:
    if answer is None:
        return None
    return Updated(**{name: tuple(found) for name, found in answer.items()})


def observation(answers: list[dict[str, Any]], probe: Probe) -> Observation:
    """One of what one process, or each rank, says."""
    gradients = [np.load(answer["path"]) for answer in answers]
    spread = max(answer["spread"] for answer in answers)
    size = norm(gradients[0])
    # The change of weights is no more exact than they are.
    noise = 2.0**-22 * answers[0]["size"] * (probe.observe == "weights")
    for gradient in gradients[1:]:
        apart = norm(gradient - gradients[0]) - noise
        if not np.array_equal(gradient, gradients[0], equal_nan=True):
            spread = max(spread, apart / max(size, norm(gradient)))
    for answer in answers:
        pathlib.Path(answer["path"]).unlink()
    return Observation(
        sum(gradients) if probe.observe == "tape" else gradients[0],
        float(np.nan_to_num(spread, nan=np.inf)),
        tuple(sorted({s for answer in answers for s in answer["sources"]})),
        tuple(value for answer in answers for value in answer["loss"]),
        any(answer["moved"] for answer in answers),
        all(answer["weights_finite"] for answer in answers),
        answers[0]["size"],
        max(answer["seconds"] for answer in answers),
        max(answer["repeats"] for answer in answers),
        tuple(answers[0]["losses"]),
        answers[0]["moves_weights"],
    )

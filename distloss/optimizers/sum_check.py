"""Whether what an optimizer has summed over replicas may make an update."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distloss._errors import (
    ContextError,
    CorruptedSumError,
    NonfiniteGradientError,
)
from distloss._formula.checked_sums import Evidence, checked_sums, looked_at
from distloss._formula.reduce import without_autograph
from distloss._formula.step_context import current_step
from distloss._types import Gradient
from distloss.optimizers import sum_errors
from distloss.optimizers.sum_known import Known, Verdict, listed
from distloss.optimizers.sum_verdict import verdict_of
from distloss.replicas import Replicas, current_strategy
from distloss.replicas.horovod import HorovodReplicas
from distloss.replicas.pairs import (
    pairs_of_processes_with_wrong_sums,
    pairs_with_wrong_sums,
)
from distloss.replicas.processes import meeting_after_failure


class Checked(NamedTuple):
    """Sums, and whether they may make an update: a boolean scalar."""

    parts: list[list[Gradient]]
    may_update: tf.Tensor


class _Place(NamedTuple):
    """Where sums are taken: what each replica is called, and what to do afterwards."""

    replicas: tuple[str, ...]
    after: sum_errors.Aftermath


class SumCheck:
    """Checks each sum of an optimizer. Not a `tf.Module`: checkpoints leave it out.

    Attributes:
      on_nonfinite: `"raise"`, `"warn"` or `"skip"`.
      is_scaled: whether a loss scale looks after gradients that are not finite.
      nonfinite_steps: how many updates had gradients that are not finite.
    """

    def __init__(self, on_nonfinite: str, *, is_scaled: bool) -> None:
        self.on_nonfinite, self.is_scaled = on_nonfinite, is_scaled
        self.nonfinite_steps = 0

    @property
    def skips(self) -> bool:
        """Whether updates are left out, and not ended by an error."""
        return self.on_nonfinite == "skip" and not self.is_scaled

    @without_autograph
    def sums(
        self,
        replicas: Replicas,
        parts: Sequence[Sequence[Gradient]],
        name: str,
        variables: Sequence[Any],
        iterations: Any,
    ) -> Checked:
        """The sums over replicas of `parts`, of which the first are gradients.

        Args:
          replicas: who shares the batch.
          parts: gradients of `variables`, and what else is summed with them.
          name: whose gradients, the same word on all replicas.
          variables: one for each gradient.
          iterations: int scalar, the updates so far.
        """
        _refuse_out_of_sync()
        step = tf.cast(iterations, tf.int64) + 1
        checked = checked_sums(replicas, parts, name, step, _losses_of_rows())
        tensors = [tensor for part in parts for tensor in part]
        names = [getattr(v, "path", v.name) for v in variables]
        known = Known(
            checked.layout,
            names + [""] * (len(tensors) - len(names)),
            [_size(tensor, i, variables) for i, tensor in enumerate(tensors)],
            replicas.is_in_one_process,
        )
        look = functools.partial(self._look, known, _place_of(replicas))
        return Checked(checked.parts, looked_at(replicas, checked, look))

    def update(
        self,
        replicas: Replicas,
        apply: Callable[[list[Any], list[Any]], None],
        sums: list[Any],
        variables: list[Any],
        may_update: tf.Tensor,
    ) -> None:
        """`apply(sums, variables)`, where that may be."""
        if not self.skips:
            with tf.control_dependencies([may_update]):
                apply(sums, variables)
            return

        def of_flat(*flat: Any) -> None:
            packed = tf.nest.pack_sequence_as(sums, flat, expand_composites=True)
            apply(packed, variables)

        flat = tf.nest.flatten(sums, expand_composites=True)
        replicas.call_if(may_update, of_flat, flat)

    def _look(self, known: Known, place: _Place, found: list[Evidence]) -> bool:
        verdict = verdict_of(found, known)
        if verdict is None:
            return True
        step = int(found[0].step)
        if verdict.is_corrupted:
            raise _corrupted(verdict, step, place)
        self.nonfinite_steps += 1
        if self.is_scaled:
            return True
        error = _not_finite(verdict, step, place)
        if self.on_nonfinite == "raise":
            raise error
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return self.on_nonfinite == "warn"


def _refuse_out_of_sync() -> None:
    if isinstance(current_strategy(), tf.distribute.ParameterServerStrategy):
        raise ContextError(
            "Expected replicas that take their steps together, to check their sums. "
            "Got a ParameterServerStrategy, whose workers sum nothing. Leave out "
            "check_sums=."
        )


def _losses_of_rows() -> list[tf.Tensor]:
    """Element losses that this replica has computed in the graph that is traced."""
    step = current_step()
    losses = [] if step is None else step.element_losses
    if tf.executing_eagerly():
        return losses
    here = tf.compat.v1.get_default_graph()
    return [loss for loss in losses if loss.graph is here]


def _size(tensor: Any, at: int, variables: Sequence[Any]) -> int:
    if at < len(variables):
        return int(np.prod(variables[at].shape))
    return int(tensor.shape.num_elements() or 0)


def _place_of(replicas: Replicas) -> _Place:
    count = replicas.count()
    names = tuple(replicas.described(index) for index in range(count))
    return _Place(names, _after(replicas))


def _after(replicas: Replicas) -> sum_errors.Aftermath:
    if isinstance(replicas, HorovodReplicas):
        meet = meeting_after_failure(replicas)
        together = functools.partial(pairs_of_processes_with_wrong_sums, replicas)
        return sum_errors.Aftermath(meet, together if meet else None)
    strategy = current_strategy()
    if strategy is None or not replicas.is_in_one_process:
        return sum_errors.NOTHING_AFTER
    search = functools.partial(pairs_with_wrong_sums, replicas, strategy)
    return sum_errors.Aftermath(search=search)


def _named(text: str, place: _Place) -> str:
    """`text`, with what replicas are called in the place of {index}."""
    return re.sub(r"\{(\d+)\}", lambda found: _name(int(found[1]), place), text)


def _name(index: int, place: _Place) -> str:
    known = index < len(place.replicas)
    return place.replicas[index] if known else f"replica {index}"


def _corrupted(verdict: Verdict, step: int, place: _Place) -> CorruptedSumError:
    where = ", ".join(_name(index, place) for index in verdict.receivers)
    error = CorruptedSumError(
        f"Expected the sum of what {len(place.replicas)} replicas sent, in step "
        f"{step}. Got another one on {where}: {_named(verdict.cause, place)}. It is in "
        f"{listed(verdict.variables)}. No update was made of it. If it comes again, "
        "train without the device that is named, or without what connects it (for GPUs,"
        f" try NCCL_P2P_DISABLE=1 in the environment).{_unknown_pair(place)}"
    )
    error.step, error.replicas = step, verdict.replicas
    error.variables = verdict.variables
    sum_errors.keep(error, place.after)
    return error


def _unknown_pair(place: _Place) -> str:
    if place.after.search is not None:
        return ""
    return (
        " Between which two of them it is cannot be told from here: distloss doctor, "
        "started on the same machines, tries each pair."
    )


def _not_finite(verdict: Verdict, step: int, place: _Place) -> NonfiniteGradientError:
    error = NonfiniteGradientError(
        f"Expected finite gradients, in step {step}. Got some that are "
        f"{_named(verdict.cause, place)}."
    )
    error.step, error.replicas = step, verdict.replicas
    error.variables = verdict.variables
    sum_errors.keep(error)
    return error

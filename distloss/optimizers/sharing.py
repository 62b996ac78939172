"""Over whom an optimizer sums."""

from __future__ import annotations

from typing import Any

from distloss.optimizers.steps import MicroSteps
from distloss.optimizers.tf_keras import SumsFirst
from distloss.replicas import Replicas, replicas_or_current_strategy
from distloss.replicas.horovod import HorovodReplicas


def horovod_replicas_of(optimizer: Any) -> HorovodReplicas | None:
    """The processes of Horovod, if it is one of ours that names them; else None."""
    found = _named_by(optimizer) if isinstance(optimizer, _OURS) else None
    return found if isinstance(found, HorovodReplicas) else None


def replicas_of(optimizer: Any) -> Replicas | None:
    """Over whom it sums, if it is one of ours; else None."""
    if not isinstance(optimizer, _OURS):
        return None
    return replicas_or_current_strategy(_named_by(optimizer))


_OURS = (MicroSteps, SumsFirst)


def _named_by(optimizer: MicroSteps | SumsFirst) -> Replicas | None:
    """Its argument `replicas`; None for those of the current strategy."""
    if isinstance(optimizer, MicroSteps):
        return optimizer._settings.replicas
    return optimizer._distloss_replicas

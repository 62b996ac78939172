"""Over whom an optimizer sums."""

from __future__ import annotations

from typing import Any

from distloss.optimizers.steps import MicroSteps
from distloss.optimizers.tf_keras import SumsFirst
from distloss.replicas import Replicas, replicas_or_current_strategy
from distloss.replicas.horovod import HorovodReplicas


def replicas_of(optimizer: Any) -> Replicas | None:
    """Over whom it sums, if it is one of ours; else None."""
    if isinstance(optimizer, MicroSteps):
        return replicas_or_current_strategy(optimizer._settings.replicas)
    if isinstance(optimizer, SumsFirst):
        return replicas_or_current_strategy(optimizer._distloss_replicas)
    return None


def horovod_replicas_of(optimizer: Any) -> HorovodReplicas | None:
    """The processes of Horovod, if it is one of ours that names them; else None."""
    found: Any = None
    if isinstance(optimizer, MicroSteps):
        found = optimizer._settings.replicas
    elif isinstance(optimizer, SumsFirst):
        found = optimizer._distloss_replicas
    return found if isinstance(found, HorovodReplicas) else None

"""Over whom an optimizer sums."""

from __future__ import annotations

from typing import Any

from distloss.optimizers.steps import MicroSteps
from distloss.optimizers.tf_keras import SumsFirst
from distloss.replicas.horovod import HorovodReplicas


def horovod_replicas_of(optimizer: Any) -> HorovodReplicas | None:
    """The processes of Horovod, if it is one of ours that names them; else None."""
    found: Any = None
    if isinstance(optimizer, MicroSteps):
        found = optimizer._settings.replicas
    elif isinstance(optimizer, SumsFirst):
        found = optimizer._distloss_replicas
    return found if isinstance(found, HorovodReplicas) else None

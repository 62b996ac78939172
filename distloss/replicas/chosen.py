"""Who shares the batch where users say so, or nobody does."""

from __future__ import annotations

import sys

from distloss._errors import ArgumentTypeError, ContextError
from distloss.replicas.base import Replicas
from distloss.replicas.strategy import StrategyReplicas


def replicas_or_current_strategy(replicas: Replicas | None) -> Replicas:
    """`replicas`, or the current strategy's when it is None.

    Raises:
      ArgumentTypeError: `replicas` is something else.
      ContextError: it is None, and several Horovod processes run.
    """
    if replicas is None:
        _refuse_silent_horovod()
        return StrategyReplicas()
    if not isinstance(replicas, Replicas):
        raise ArgumentTypeError(
            "Expected replicas= to say who shares the batch: distloss.OneDevice(), "
            "distloss.StrategyReplicas(), distloss.HorovodReplicas() or None for the "
            f"current strategy. Got replicas={replicas!r} of type "
            f"{type(replicas).__name__}. Pass an instance of one of these; a strategy "
            "is found by itself."
        )
    return replicas


def _refuse_silent_horovod() -> None:
    # Only looked at, never loaded: Horovod that is merely installed changes nothing.
    hvd = sys.modules.get("horovod.tensorflow")
    if hvd is not None and hvd.is_initialized() and hvd.size() > 1:
        raise ContextError(
            "Expected replicas= to say who shares the batch, since Horovod runs "
            f"{hvd.size()} processes. Got replicas=None, which counts the rows of this "
            "process alone. Pass replicas=distloss.HorovodReplicas(), or "
            "distloss.OneDevice() if this process has the whole batch."
        )

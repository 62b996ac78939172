"""Who shares the batch, and how to sum over them.

The only folder that may touch collectives of `tf.distribute` or of Horovod.
"""

from distloss.replicas.base import Replicas
from distloss.replicas.chosen import replicas_or_current_strategy
from distloss.replicas.one_device import OneDevice
from distloss.replicas.strategy import StrategyReplicas, current_strategy

__all__ = [
    "OneDevice",
    "Replicas",
    "StrategyReplicas",
    "current_strategy",
    "replicas_or_current_strategy",
]

# Saved under the public address, whichever file they are written in.
for _class in (OneDevice, Replicas, StrategyReplicas):
    _class.__module__ = __name__

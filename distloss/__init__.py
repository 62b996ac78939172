"""One global batch, one update, however it is split.

The public names. They are imported when first used, so that `import distloss`
alone does not load TensorFlow.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import wrapt

from distloss._errors import DistlossError

if TYPE_CHECKING:
    from distloss._audit import audit
    from distloss._horovod import HorovodReplicas
    from distloss._prepare import prepare
    from distloss._reduce import mean_share, regularization_share
    from distloss._report import Report
    from distloss.losses import DistributedLoss
    from distloss.metrics import GlobalMean
    from distloss.optimizers import DistributedOptimizer
    from distloss.replicas import OneDevice, StrategyReplicas

__all__ = [
    "DistlossError",
    "DistributedLoss",
    "DistributedOptimizer",
    "GlobalMean",
    "HorovodReplicas",
    "OneDevice",
    "Report",
    "StrategyReplicas",
    "audit",
    "mean_share",
    "prepare",
    "regularization_share",
]

_HOME = {
    "DistributedLoss": "distloss.losses",
    "DistributedOptimizer": "distloss.optimizers",
    "GlobalMean": "distloss.metrics",
    "HorovodReplicas": "distloss._horovod",
    "OneDevice": "distloss.replicas",
    "Report": "distloss._report",
    "StrategyReplicas": "distloss.replicas",
    "audit": "distloss._audit",
    "mean_share": "distloss._reduce",
    "prepare": "distloss._prepare",
    "regularization_share": "distloss._reduce",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'distloss' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@wrapt.when_imported("keras")
def _register_with_keras(_keras: Any) -> None:
    # Keras loads a saved model only from classes that have registered themselves,
    # and `import distloss` must be enough for that, before or after Keras.
    # On another backend they say so when they are used, not from `import keras`.
    with contextlib.suppress(ImportError):
        for module in set(_HOME.values()):
            importlib.import_module(module)


@wrapt.when_imported("tf_keras")
def _register_with_tf_keras(_tf_keras: Any) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("distloss._tf_keras_loss").loss_class()
        importlib.import_module("distloss.metrics").class_for_tf_keras()

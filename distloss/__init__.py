"""One global batch, one update, however it is split.

The public names. They are imported when first used, so that `import distloss`
alone does not load TensorFlow.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from distloss._errors import (
    BackendError,
    CorruptedSumError,
    DistlossError,
    NonfiniteGradientError,
    UntestedVersionWarning,
)

if TYPE_CHECKING:
    from distloss import callbacks as callbacks
    from distloss import data as data
    from distloss import losses as losses
    from distloss import metrics as metrics
    from distloss import optimizers as optimizers
    from distloss import replicas as replicas
    from distloss._audit.report.findings import Report
    from distloss._audit.run import audit
    from distloss._check.check_step import check_step
    from distloss._formula.shares import mean_share, regularization_share
    from distloss._prepare.prepare import prepare
    from distloss._prepare.row_weighted import row_weighted
    from distloss.losses import DistributedLoss
    from distloss.metrics import GlobalMean
    from distloss.optimizers import DistributedOptimizer
    from distloss.optimizers.sum_errors import sum_errors
    from distloss.replicas import OneDevice, StrategyReplicas
    from distloss.replicas.horovod import HorovodReplicas

__all__ = [
    "CorruptedSumError",
    "DistlossError",
    "DistributedLoss",
    "DistributedOptimizer",
    "GlobalMean",
    "HorovodReplicas",
    "NonfiniteGradientError",
    "OneDevice",
    "Report",
    "StrategyReplicas",
    "UntestedVersionWarning",
    "audit",
    "check_step",
    "mean_share",
    "prepare",
    "regularization_share",
    "row_weighted",
    "sum_errors",
]

_HOME = {
    "DistributedLoss": "distloss.losses",
    "DistributedOptimizer": "distloss.optimizers",
    "GlobalMean": "distloss.metrics",
    "HorovodReplicas": "distloss.replicas.horovod",
    "OneDevice": "distloss.replicas",
    "Report": "distloss._audit.report.findings",
    "StrategyReplicas": "distloss.replicas",
    "audit": "distloss._audit.run",
    "check_step": "distloss._check.check_step",
    "mean_share": "distloss._formula.shares",
    "prepare": "distloss._prepare.prepare",
    "regularization_share": "distloss._formula.shares",
    "row_weighted": "distloss._prepare.row_weighted",
    "sum_errors": "distloss.optimizers.sum_errors",
}

_MODULES = (
    "callbacks",
    "data",
    "losses",
    "metrics",
    "optimizers",
    "replicas",
)

# Those whose classes register themselves, in the order in which they import each other.
_REGISTER = (
    "distloss.replicas",
    "distloss.replicas.horovod",
    "distloss.losses",
    "distloss.metrics",
    "distloss.optimizers",
)

# Those whose end of import is told: all that users may import first.
_ANNOUNCED = tuple(
    dict.fromkeys([*_HOME.values(), *(f"distloss.{name}" for name in _MODULES)])
)

if TYPE_CHECKING:
    __version__: str
else:  # a type checker takes __getattr__ to mean that every name exists

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"distloss.{name}")
        if name == "__version__":
            return importlib.import_module("distloss._package").version()
        raise AttributeError(f"module 'distloss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES, "__version__"})


def _import_on_our_backend(*modules: str) -> bool:
    """Whether Keras' backend is ours; if not, users of these modules hear of it."""
    try:
        for module in modules:
            importlib.import_module(module)
    except BackendError:  # not from `import keras`, which may be for something else
        return False
    return True


def _register_with_keras(imported: Any) -> None:
    # Keras loads a saved model only from classes that have registered themselves,
    # and `import distloss` must be enough for that, before or after Keras. If one of
    # our modules is what imports Keras first, its own end is waited for.
    others = (name for name in _ANNOUNCED if name != imported.__name__)
    if "keras" in sys.modules and not any(map(_is_half_imported, others)):
        _import_on_our_backend(*_REGISTER)


def _is_half_imported(name: str) -> bool:
    return getattr(
        getattr(sys.modules.get(name), "__spec__", None), "_initializing", False
    )


for _name in ("keras", *_ANNOUNCED):
    wrapt.register_post_import_hook(_register_with_keras, _name)


@wrapt.when_imported("tf_keras")
def _register_with_tf_keras(_tf_keras: Any) -> None:
    if _import_on_our_backend("distloss.losses.tf_keras", "distloss.metrics"):
        importlib.import_module("distloss.losses.tf_keras").loss_class()
        importlib.import_module("distloss.metrics").class_for_tf_keras()


@wrapt.when_imported("distloss._check.judge")
def _judge_by_the_audit(judge: Any) -> None:
    # The library does not know the audit, whose causes and words it shows.
    from distloss._audit.step import judged

    judge.judge_with(judged)

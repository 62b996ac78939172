"""The callback that reports metrics over the rows of all processes."""

from __future__ import annotations

from typing import Any

from distloss._keras.model_hooks import report_global_metrics
from distloss._keras.tf_keras import Callback
from distloss.replicas.horovod import HorovodReplicas


class GlobalMetrics(Callback):
    """Makes `fit` and `evaluate` report metrics over the rows of all processes.

    At the end of an epoch or evaluation, the variables of each metric, which hold sums,
    are added up over processes and the metric is read: each process weighs by what it
    has counted. So `history`, `val_` values and what `evaluate` returns are the same on
    all processes. The progress bar shows this process's rows until then. A model that
    was given to `distloss.prepare` does so without this callback.

    All processes must call `fit` and `evaluate` together.

    Args:
      replicas: the processes; None means all of Horovod's.

    Example:
      >>> from distloss.callbacks import GlobalMetrics
      >>> callbacks = [GlobalMetrics()]  # for model.fit and model.evaluate

    Reference: `hvd.callbacks.MetricAverageCallback`, which fails on Keras 3 and gives
    each process the same weight.
    """

    def __init__(self, replicas: HorovodReplicas | None = None) -> None:
        super().__init__()
        self.replicas = replicas or HorovodReplicas()

    def set_model(self, model: Any) -> None:
        """Takes effect for `model`, from now on."""
        super().set_model(model)
        report_global_metrics(model, self.replicas)

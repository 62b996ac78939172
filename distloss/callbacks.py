"""Keras callbacks: for several Horovod processes, and for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distloss._errors import ArgumentError, ContextError, DriftError
from distloss._keras.model_hooks import report_global_metrics
from distloss._keras.versions import per_replica_variable
from distloss.optimizers.monitor import Monitor
from distloss.replicas.horovod import HorovodReplicas


class _Callback(keras.callbacks.Callback):
    """A callback of Keras 3 that `fit` of tf-keras (Keras 2) takes as well.

    That asks callbacks for which batches they have something to do:
    https://github.com/keras-team/tf-keras/blob/v2.21.0/tf_keras/src/callbacks.py
    """

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False


class BroadcastState(_Callback):
    """Starts all processes from the weights and the optimizer of one.

    When training begins, each weight and each variable of the optimizer (slots,
    iterations, loss scale) is assigned its value on process `root_rank`: also where
    only that process has loaded a checkpoint. Put it after callbacks that load one.
    Seeds of random layers stay each process's own.

    Args:
      replicas: the processes; None means all of Horovod's.
      root_rank: rank of the process to copy; None means the first of the processes.

    Raises:
      ContextError: when training begins: the model has no weights yet, or the
        processes made different models.

    Example:
      >>> from distloss.callbacks import BroadcastState
      >>> callbacks = [BroadcastState()]  # for model.fit

    Reference: `hvd.callbacks.BroadcastGlobalVariablesCallback`, which fails on Keras 3.
    """

    def __init__(
        self, replicas: HorovodReplicas | None = None, *, root_rank: int | None = None
    ) -> None:
        super().__init__()
        self.replicas = replicas or HorovodReplicas()
        self.root_rank = root_rank

    def on_train_begin(self, logs: Any = None) -> None:
        """Broadcasts."""
        broadcast_state(self.model, self.replicas, root_rank=self.root_rank)


def broadcast_state(
    model: Any, replicas: HorovodReplicas, *, root_rank: int | None = None
) -> None:
    """Assigns weights and optimizer variables of process `root_rank` to all.

    Raises:
      ContextError: the model has no weights yet, or the processes made different
        models.
    """
    variables = state_of(model)
    _check_same_shapes(variables, replicas)
    root = replicas.first_rank() if root_rank is None else root_rank
    replicas.broadcast(variables, root_rank=root, name="state")


def state_of(model: Any) -> list[Any]:
    """Weights and optimizer variables of a model, in the order of their making.

    Raises:
      ContextError: the model has no weights yet.
    """
    if not model.built:
        raise ContextError(
            f"Expected a model with weights. Got model {model.name!r}, which makes "
            "them when it first sees data, after training has begun. Call model.build("
            "input_shape) or the model itself on a batch before model.fit."
        )
    optimizer = model.optimizer
    if optimizer is None:
        return list(model.weights)
    _build(optimizer, model.trainable_variables)
    variables = optimizer.variables  # a method in tf_keras.optimizers.legacy
    return [*model.weights, *(variables() if callable(variables) else variables)]


def _build(optimizer: Any, variables: Sequence[Any]) -> None:
    """Makes the variables of an optimizer of either Keras, where there are none."""
    if hasattr(optimizer, "_create_all_weights"):  # of tf_keras.optimizers.legacy
        optimizer._create_all_weights(variables)
    elif not getattr(optimizer, "built", False):
        optimizer.build(variables)  # which in tf-keras sees whether there are any


def _check_same_shapes(variables: Sequence[Any], replicas: HorovodReplicas) -> None:
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    mine = tf.constant([[len(sizes), sum(sizes)]], tf.int64)
    all_sizes = replicas.gathered(mine, "state_sizes").numpy()
    if (all_sizes != all_sizes[0]).any():
        raise ContextError(
            "Expected the same model and optimizer on all processes. Got (variables, "
            f"elements) {[tuple(map(int, pair)) for pair in all_sizes]} on them, in "
            "the order of their ranks. Build the model by the same code everywhere."
        )


class GlobalMetrics(_Callback):
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


class DriftGuard(_Callback):
    """Stops training when the processes no longer hold the same weights.

    Every `every` batches and when training ends, each process computes two checksums of
    each trainable weight, and all compare them, by one gather of a few numbers. They
    differ after weights were not broadcast, gradients not reduced, or an update was
    skipped on some processes only. `BatchNormalization`'s moving statistics differ by
    design, and are not compared.

    Args:
      replicas: the processes; None means all of Horovod's.
      every: batches between comparisons, a positive int.
      tolerance: how much checksums may differ, relative to the largest.

    Raises:
      DriftError: when they differ, on all processes: the first variable that differs.
      ArgumentError: `every` below 1 or no int, or a negative `tolerance`.

    Example:
      >>> from distloss.callbacks import DriftGuard
      >>> callbacks = [DriftGuard(every=100)]  # for model.fit

    Reference: README, "Horovod".
    """

    def __init__(
        self,
        replicas: HorovodReplicas | None = None,
        *,
        every: int = 100,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        if not tolerance >= 0:
            raise ArgumentError(
                f"Expected tolerance= to be 0 or more. Got tolerance={tolerance!r}."
            )
        self.replicas = replicas or HorovodReplicas()
        self.every = _checked_every(every)
        self.tolerance = tolerance
        self._batches = 0
        self._checksums = tf.function(checksums, autograph=False)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Compares, every `every` batches."""
        self._batches += 1
        if self._batches % self.every == 0:
            self.compare()

    def on_train_end(self, logs: Any = None) -> None:
        """Compares."""
        self.compare()

    def compare(self) -> None:
        """Compares the weights of all processes; all must call it together.

        Raises:
          DriftError: they differ.
        """
        variables = self.model.trainable_weights
        mine = self._checksums([tf.convert_to_tensor(v) for v in variables])
        everybody = self.replicas.gathered(mine[tf.newaxis], "checksums").numpy()
        at = first_difference(everybody, self.tolerance)
        if at is not None:
            sums = everybody[:, at, 0]
            raise DriftError(_drift_message(self.model, variables[at], sums))


class StepSummary(_Callback):
    """Writes for TensorBoard what a step divides by, its gradient, and what it skips.

    - `distloss/gradient_norm`: of all gradients, after they were summed over replicas
      and unscaled, before they are clipped.
    - `distloss/denominator/LOSS`: W of each loss, over all replicas: rows, elements or
      weights, as its reduction says.
    - `distloss/skipped_steps`: how many updates had gradients that were not finite.
      Those of a `LossScaleOptimizer` were skipped by all replicas.

    Loss and metrics of a prepared model are right in `keras.callbacks.TensorBoard`.
    Under Horovod, pass it on one process. Steps cost one more read of the gradients.

    Args:
      log_dir: folder of the event files, as for `keras.callbacks.TensorBoard`.
      every: steps from one summary to the next, a positive int.

    Raises:
      ArgumentError: `every` is below 1, or, when training begins, the model is not
        prepared.

    Example:
      >>> from distloss.callbacks import StepSummary
      >>> callbacks = [StepSummary("logs", every=100)]  # for model.fit
    """

    def __init__(self, log_dir: Any, *, every: int = 1) -> None:
        super().__init__()
        self.log_dir, self.every = str(log_dir), _checked_every(every)
        self._written: dict[str, tf.Variable] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Lets the model's optimizer and losses note what steps are like."""
        optimizer = _one_that_notes(self.model.optimizer)
        if not self._written:
            with self.model.distribute_strategy.scope():
                self._begin(optimizer)
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def _begin(self, optimizer: Any) -> None:
        optimizer.monitor = Monitor()
        self._written = {
            "gradient_norm": optimizer.monitor.gradient_norm,
            "skipped_steps": optimizer.monitor.skipped,
        }
        for loss in _losses_of(self.model):
            if hasattr(loss, "monitor"):
                loss.monitor = per_replica_variable((), "float32", "only_first_replica")
                name = f"denominator/{loss.name}"
                while name in self._written:  # several outputs, each with the same loss
                    name += "_"
                self._written[name] = loss.monitor
        self.model.make_train_function(force=True)  # what was traced notes nothing

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes, every so many steps."""
        step = int(self.model.optimizer.iterations.numpy())
        if step % self.every:
            return
        with self._writer.as_default(step):
            for name, variable in self._written.items():
                tf.summary.scalar(f"distloss/{name}", variable.read_value())

    def on_train_end(self, logs: Any = None) -> None:
        """Closes the file."""
        self._writer.close()


def _one_that_notes(optimizer: Any) -> Any:
    """The optimizer that notes what steps are like: that of tf-keras is the inner one.

    Raises:
      ArgumentError: it is not distributed.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for found in (optimizer, inner):
        if hasattr(found, "monitor"):
            return found
    raise ArgumentError(
        "Expected a model whose optimizer is distributed. Got "
        f"{type(optimizer).__name__}. Call distloss.prepare(model) after "
        "model.compile(...)."
    )


def _losses_of(model: Any) -> list[Any]:
    """The compiled losses of a model of either Keras, if there are any."""
    if isinstance(model, keras.Model):
        return keras.tree.flatten(getattr(model._compile_loss, "_user_loss", None))
    return tf.nest.flatten(model.compiled_loss._user_losses)


def _checked_every(every: Any) -> int:
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ArgumentError(
            "Expected every= to be at least 1 batch from one to the next, an int. Got "
            f"every={every!r}."
        )
    return every


def checksums(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Two numbers per tensor that tell different tensors apart: float64 `[tensors, 2]`.

    The sum, and a sum with weights that differ from element to element, so that what
    one element gained and another lost shows.
    """
    rows = []
    for value in values:
        flat = tf.cast(tf.reshape(value, [-1]), tf.float64)
        wave = tf.cos(tf.range(tf.cast(tf.size(flat), tf.float64)))
        rows.append(tf.stack([tf.reduce_sum(flat), tf.reduce_sum(flat * wave)]))
    return tf.stack(rows) if rows else tf.zeros((0, 2), tf.float64)


def first_difference(everybody: np.ndarray[Any, Any], tolerance: float) -> int | None:
    """The first tensor whose checksums, `[processes, tensors, 2]`, differ."""
    spread = np.ptp(everybody, axis=0)
    scale = np.abs(everybody).max(axis=0)
    same = (spread <= tolerance * scale) | np.isnan(everybody).all(axis=0)
    wrong = np.flatnonzero(~same.all(axis=-1))
    return int(wrong[0]) if len(wrong) else None


def _drift_message(
    model: keras.Model, variable: Any, sums: np.ndarray[Any, Any]
) -> str:
    found = ", ".join(f"{value:.9g}" for value in sums)
    name = getattr(variable, "path", variable.name)  # of tf-keras
    kind = type(model.optimizer)
    cause = (
        "Broadcast the initial weights with distloss.callbacks.BroadcastState, and "
        "reduce gradients with distloss.DistributedOptimizer(optimizer, "
        "replicas=distloss.HorovodReplicas())."
    )
    if hasattr(model.optimizer, "_allreduce_grads"):
        cause = (
            f"The optimizer is hvd.DistributedOptimizer ({kind.__name__}), which never "
            "reduces with Keras 3: https://github.com/horovod/horovod/issues/4290. Use "
            "distloss.DistributedOptimizer instead."
        )
    return (
        "Expected the same weights on all processes. Got different ones, first in "
        f"variable {name!r}: the sums of its elements are {found}, in the "
        f"order of the ranks. {cause}"
    )


def elastic_state(
    model: keras.Model, *, replicas: HorovodReplicas | None = None, **values: Any
) -> Any:
    """What an elastic Horovod job keeps when processes come and go.

    The weights and optimizer variables of `model`, and `values`: give it to a function
    under `hvd.elastic.run`, and call its `commit()` after each batch or so.

    Args:
      model: a compiled model with weights.
      replicas: the processes; None means all of Horovod's.
      values: picklable values, such as `epoch=0`, attributes of the state from then on.

    Returns:
      a `horovod.common.elastic.State`.

    Raises:
      ContextError: the model has no weights yet.
      HorovodMissingError: Horovod is not installed.

    Example:
      >>> from distloss.callbacks import elastic_state
      >>> # state = elastic_state(model, epoch=0); hvd.elastic.run(train)(state)

    Reference: `hvd.elastic.TensorFlowKerasState`, which fails on Keras 3.
    """
    return (replicas or HorovodReplicas()).elastic_state(state_of(model), values)
